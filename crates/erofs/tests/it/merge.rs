//! Layers become what overlayfs shows of them: a model, and the kernel's overlayfs over the same layers, agree.

use std::ffi::CString;
use std::fs;
use std::io::Cursor;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use larder_erofs::writer::{
    Attributes, Fragments, ImageOptions, Layer, LayerDevices, MergeOptions, MergedSummary, Options, Tree,
    write_data, write_image, write_merged,
};
use larder_erofs::{DeviceMode, Image, Incompat, MetaSource, check};
use larder_erofs_fuzz::golden;
use proptest::prelude::*;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::support::kernel::Mounted;
use crate::support::stack::{self, Built, Recipe, build, model, stacks};
use crate::support::{Listing, assert_same, list_host, list_image, list_image_from};

const TRUSTED: &str = "trusted.overlay.opaque";

/// Cases of a property; `$PROPTEST_CASES` asks for more.
fn config(cases: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig { cases: asked.unwrap_or(cases), failure_persistence: None, ..ProptestConfig::default() }
}

fn built(stack: &[Recipe], opaque: &str) -> Vec<Built> {
    stack.iter().map(|layer| build(stack::tree(&layer.ops, opaque), layer.format)).collect()
}

fn merged(layers: &[Built], options: &MergeOptions) -> Tree {
    Tree::from_layers(layers.iter().map(Built::layer).collect(), options).expect("sound layers")
}

/// The image that points into the layers, and the bytes of its devices.
fn pointing(
    layers: &[Built],
    tree: Tree,
    options: &ImageOptions<'_>,
) -> (Vec<u8>, Vec<Vec<u8>>, MergedSummary) {
    let mut out = Cursor::new(Vec::new());
    let summary = write_merged(tree, options, LayerDevices::Needed, &mut out).expect("writable");
    let devices = summary.devices.iter().map(|device| match device.device.slot() {
        None => layers[device.layer].image.clone(),
        Some(slot) => layers[device.layer].devices[slot].clone(),
    });
    let devices = devices.collect();
    (out.into_inner(), devices, summary)
}

fn copy(tree: Tree) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    write_image(tree, &ImageOptions::default(), &mut out).expect("writable");
    out.into_inner()
}

fn list(image: &[u8], devices: &[Vec<u8>]) -> Listing {
    let devices: Vec<&[u8]> = devices.iter().map(Vec::as_slice).collect();
    list_image(&Image::open(image.to_vec()).expect("opens"), &devices).expect("readable")
}

proptest! {
    #![proptest_config(config(128))]

    #[test]
    fn a_merge_shows_what_the_model_of_overlayfs_shows(stack in stacks()) {
        let layers = built(&stack, TRUSTED);
        let expected = model(&layers, "trusted.overlay.");
        let tree = || merged(&layers, &MergeOptions::default());
        let (image, devices, summary) = pointing(&layers, tree(), &ImageOptions::default());
        assert_same(&list(&image, &devices), &expected);
        prop_assert_eq!(summary.image.bytes, image.len() as u64);
        // Whether the last block of a device is whole makes no difference in one file either.
        let flat = flattened(&image, &devices);
        let flat = Image::open_with(flat, DeviceMode::Flat).expect("opens");
        assert_same(&list_image(&flat, &[]).expect("readable"), &expected);

        let mut options = ImageOptions { inline_data: false, ..ImageOptions::default() };
        let (image, devices, _) = pointing(&layers, tree(), &options);
        assert_same(&list(&image, &devices), &expected);
        options.jobs = std::num::NonZero::new(2).expect("two");
        prop_assert!(pointing(&layers, tree(), &options).0 == image, "the number of threads shows");

        assert_same(&list(&copy(tree()), &[]), &expected);
        let mut blob = Vec::new();
        let data = write_data(tree(), &Options::default(), &mut blob).expect("writable");
        let (mut image, tags) = (Vec::new(), vec![larder_erofs::DeviceTag::EMPTY; data.devices().len()]);
        data.write_metadata(&tags, &mut image).expect("writable");
        assert_same(&list(&image, &[blob]), &expected);
    }

    #[test]
    fn merging_in_two_steps_is_merging_at_once(stack in stacks(), cut in 1_usize..4) {
        let layers = built(&stack, TRUSTED);
        let (low, high) = layers.split_at(cut.min(layers.len() - 1));
        let upper = MergeOptions { strip_overlay: false, ..MergeOptions::default() };
        let upper = Built { image: copy(merged(high, &upper)), devices: Vec::new() };
        let both = [low, &[upper]].concat();
        let twice = list(&copy(merged(&both, &MergeOptions::default())), &[]);
        let once = list(&copy(merged(&layers, &MergeOptions::default())), &[]);
        assert_same(&twice, &once);
    }
}

/// The image with its devices behind it in one file.
fn flattened(image: &[u8], devices: &[Vec<u8>]) -> Vec<u8> {
    let opened = Image::open(image.to_vec()).expect("opens");
    let block = opened.superblock().block_size;
    let mut flat = image.to_vec();
    for (slot, device) in opened.devices().iter().zip(devices) {
        let at = usize::try_from(slot.uniaddr * block.bytes()).expect("small");
        assert!(flat.len() <= at, "devices follow each other");
        flat.resize(at, 0);
        flat.extend_from_slice(device);
    }
    flat
}

/// A mount of overlayfs; dropped, it is unmounted.
struct Overlay(PathBuf);

impl Overlay {
    fn new(lower: &[&Path], at: &Path, options: &str) -> Self {
        // The topmost first.
        let lower: Vec<&[u8]> = lower.iter().rev().map(|path| path.as_os_str().as_bytes()).collect();
        let options = [b"lowerdir=", lower.join(&b':').as_slice(), options.as_bytes()].concat();
        let options = CString::new(options).expect("no NUL");
        mount("overlay", at, "overlay", MountFlags::RDONLY, Some(options.as_c_str())).expect("overlayfs");
        Self(at.to_owned())
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// Mounts the layers and the merge, and compares what overlayfs shows of the ones with what EROFS shows of the other.
fn kernel_agrees(stack: &[Recipe], opaque: &str, options: &str) {
    let layers = built(stack, opaque);
    let dir = tempfile::tempdir().expect("can make");
    let place = |name: String| {
        let path = dir.path().join(name);
        fs::create_dir(&path).expect("can make");
        path
    };
    let write = |name: String, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).expect("can write");
        path
    };
    let mut mounts = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        let image = write(format!("{number}.erofs"), &layer.image);
        let devices: Vec<PathBuf> =
            layer.devices.iter().map(|device| write(format!("{number}.blob"), device)).collect();
        let devices: Vec<&Path> = devices.iter().map(PathBuf::as_path).collect();
        mounts.push(Mounted::new(&image, &devices, &place(format!("{number}"))).expect("mountable"));
    }
    let lower: Vec<&Path> = mounts.iter().map(Mounted::path).collect();
    let overlay = Overlay::new(&lower, &place("overlay".to_owned()), options);
    let expected = list_host(&overlay.0);

    let (image, devices, summary) =
        pointing(&layers, merged(&layers, &MergeOptions::default()), &ImageOptions::default());
    let image = write("merged.erofs".to_owned(), &image);
    let devices: Vec<PathBuf> = summary
        .devices
        .iter()
        .zip(&devices)
        .map(|(device, bytes)| write(format!("{}-{}.device", device.layer, device.device), bytes))
        .collect();
    let paths: Vec<&Path> = devices.iter().map(PathBuf::as_path).collect();
    let found = Mounted::new(&image, &paths, &place("merged".to_owned())).expect("mountable");
    assert_same(&list_host(found.path()), &expected);
}

fn cannot_mount(test: &str) -> bool {
    let why = Mounted::impossible().or_else(|| {
        let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        (!known.contains("overlay")).then(|| "this kernel has no overlayfs".to_owned())
    });
    if let Some(why) = &why {
        eprintln!("SKIPPED: {test}: {why}");
    }
    why.is_some()
}

#[test]
fn a_merge_is_what_overlayfs_shows_of_random_stacks() {
    if cannot_mount("a_merge_is_what_overlayfs_shows_of_random_stacks") {
        return;
    }
    proptest!(config(64), |(stack in stacks())| kernel_agrees(&stack, TRUSTED, ""));
}

#[test]
fn opaque_directories_of_unprivileged_overlays_count_too() {
    if cannot_mount("opaque_directories_of_unprivileged_overlays_count_too") {
        return;
    }
    proptest!(config(16), |(stack in stacks())| {
        kernel_agrees(&stack, "user.overlay.opaque", ",userxattr");
    });
}

/// Images of Debian's mkfs.erofs in every layout: alone, and with a layer above.
#[test]
fn every_layout_of_mkfs_can_be_a_layer() {
    let mut above = Tree::new();
    above.add_file(b"above/new", b"from above".to_vec(), &Attributes::default()).expect("new");
    let above = build(above, 0);
    for (name, _) in golden::RECIPES {
        let lower = Built { image: golden::image(name), devices: Vec::new() };
        let whole = lower.listing();
        let keep = MergeOptions { strip_overlay: false, oci_whiteouts: false };
        let alone = std::slice::from_ref(&lower);
        let (image, devices, summary) = pointing(alone, merged(alone, &keep), &ImageOptions::default());
        let mut expected = whole.clone();
        assert_same(&list(&image, &devices), &expected);
        // Only extents of any length at any byte have no place in another index.
        let copied = summary.copied_bytes;
        let wide = name.starts_with("wide") || name.starts_with("metabox");
        assert_eq!(copied > 0, wide, "{name}: {copied} bytes copied");

        let both = [lower.clone(), above.clone()];
        let (image, devices, _) = pointing(&both, merged(&both, &keep), &ImageOptions::default());
        let found = list(&image, &devices);
        assert_eq!(found[&b"above/new"[..]].data, b"from above", "{name}");
        expected.remove(&b""[..]);
        for (path, object) in &expected {
            assert!(found[path] == *object, "{name}: {}", String::from_utf8_lossy(path));
        }
        let image = Image::open(image).expect("opens");
        let devices: Vec<Arc<dyn MetaSource>> =
            devices.into_iter().map(|device| Arc::new(device) as Arc<dyn MetaSource>).collect();
        let report = check::check(&image, &devices, None, &check::Options::default());
        assert!(report.faults.is_empty(), "{name}: {:?}", report.faults);
    }
}

/// Layers that claim 3 TiB each, in blocks of 512 bytes: more than 2^32 of them.
#[test]
fn more_than_2_to_the_32_blocks_of_layers_bring_the_48_bit_layout() {
    let dir = tempfile::tempdir().expect("can make");
    let lines: Vec<u8> = (0..8000).flat_map(|n| format!("line {n} of many\n").into_bytes()).collect();
    let lz4 = vec!["lz4".parse().expect("known")];
    let layouts = [
        ImageOptions { compressors: lz4.clone(), pcluster_bytes: 4096, ..ImageOptions::default() },
        ImageOptions { inline_data: false, ..ImageOptions::default() },
        ImageOptions::default(),
        ImageOptions { chunk_bits: 12, ..ImageOptions::default() },
        ImageOptions {
            compressors: lz4,
            dedupe: true,
            fragments: Fragments::Tails,
            ..ImageOptions::default()
        },
    ];
    let mut layers = Vec::new();
    let mut paths = Vec::new();
    for (number, layout) in layouts.iter().enumerate() {
        let mut tree = Tree::new();
        let name = format!("file-{number}");
        let contents = [name.as_bytes(), &lines].concat();
        tree.add_file(name.as_bytes(), contents, &Attributes::default()).expect("new");
        let path = dir.path().join(&name);
        let mut file = fs::File::create_new(&path).expect("can make");
        write_image(tree, &ImageOptions { block_bits: 9, ..layout.clone() }, &mut file).expect("writable");
        if let Err(error) = file.set_len(3 << 40) {
            eprintln!("SKIPPED: more_than_2_to_the_32_blocks: no sparse file of 3 TiB here: {error}");
            return;
        }
        let image = Image::open(fs::File::open(&path).expect("made")).expect("opens");
        layers.push(Layer::new(image).expect("in one piece"));
        paths.push(path);
    }
    let tree = Tree::from_layers(layers, &MergeOptions::default()).expect("sound layers");
    let mut out = Cursor::new(Vec::new());
    let summary =
        write_merged(tree, &ImageOptions::default(), LayerDevices::All, &mut out).expect("writable");
    assert_eq!(summary.copied_bytes, 0);
    let image = Image::open(out.get_ref().clone()).expect("opens");
    assert!(image.superblock().incompat.contains(Incompat::BITS_48));
    assert!(image.devices().iter().all(|slot| slot.blocks == 3 << 31));
    assert!(image.devices()[1..].iter().all(|slot| slot.uniaddr > u64::from(u32::MAX)));
    let devices: Vec<fs::File> = paths.iter().map(|path| fs::File::open(path).expect("made")).collect();
    let found = list_image_from(&image, &mut |device, at, buf| {
        devices[device.slot().expect("a device")].read_exact_at(at, buf)
    });
    let expected = found.expect("readable");
    assert_eq!(expected.len(), 1 + layouts.len());
    for (number, path) in paths.iter().enumerate() {
        let name = path.file_name().expect("named").as_bytes();
        assert!(expected[name].data == [name, &lines].concat(), "file-{number} reads as it was written");
    }
    if !Mounted::is_possible() {
        return;
    }
    let (path, at) = (dir.path().join("merged"), dir.path().join("at"));
    fs::write(&path, out.into_inner()).expect("can write");
    fs::create_dir(&at).expect("can make");
    let paths: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
    let mounted = Mounted::new(&path, &paths, &at).expect("mountable");
    let shown = list_host(mounted.path());
    assert_same(&shown, &expected);
}
