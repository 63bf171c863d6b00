//! Random stacks of layers, and what overlayfs shows of them as a model has it: layer upon layer onto a map.

use std::collections::{BTreeMap, HashMap};
use std::io::Cursor;
use std::sync::Arc;

use larder_erofs::writer::{
    Attributes, Fragments, ImageOptions, Layer, Options, Tree, write_data, write_image,
};
use larder_erofs::{DeviceTag, FileType, Image, MetaSource, Rdev, Timestamp, Xattr};
use proptest::prelude::*;

use crate::support::{Listing, Object, list_image};

/// One thing that a layer does.
#[derive(Clone, Debug)]
pub enum Op {
    File {
        path: String,
        size: usize,
        seed: u8,
    },
    Dir {
        path: String,
        opaque: bool,
        mode: u16,
    },
    Symlink {
        path: String,
    },
    Special {
        path: String,
    },
    Link {
        path: String,
        target: String,
    },
    Whiteout {
        path: String,
    },
    /// A whiteout that is an empty file, in a directory that says that it has such.
    XattrWhiteout {
        path: String,
    },
    Xattr {
        path: String,
        value: u8,
    },
}

/// A layer: what it does, and how it is written.
#[derive(Clone, Debug)]
pub struct Recipe {
    pub ops: Vec<Op>,
    pub format: usize,
}

/// A written layer: image and devices.
#[derive(Clone, Debug)]
pub struct Built {
    pub image: Vec<u8>,
    pub devices: Vec<Vec<u8>>,
}

impl Built {
    pub fn layer(&self) -> Layer {
        let devices = self.devices.iter().map(|device| Arc::new(device.clone()) as Arc<dyn MetaSource>);
        let image = Image::open(self.image.clone()).expect("opens");
        Layer::with_devices(image, devices.collect()).expect("all devices")
    }

    pub fn listing(&self) -> Listing {
        let blobs: Vec<&[u8]> = self.devices.iter().map(Vec::as_slice).collect();
        list_image(&Image::open(self.image.clone()).expect("opens"), &blobs).expect("readable")
    }
}

/// Few names, so that layers meet.
fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c", "d.long.name"]), 1..=3)
        .prop_map(|names| names.join("/"))
}

fn op() -> impl Strategy<Value = Op> {
    let size = prop::sample::select(vec![0, 1, 100, 4000, 4096, 5000, 20_000, 70_000, 300_000]);
    prop_oneof![
        6 => (path(), size, any::<u8>()).prop_map(|(path, size, seed)| Op::File { path, size, seed }),
        3 => (path(), prop::bool::weighted(0.4), 0_u16..0o1000)
            .prop_map(|(path, opaque, mode)| Op::Dir { path, opaque, mode: mode | 0o700 }),
        1 => path().prop_map(|path| Op::Symlink { path }),
        1 => path().prop_map(|path| Op::Special { path }),
        2 => (path(), path()).prop_map(|(path, target)| Op::Link { path, target }),
        4 => path().prop_map(|path| Op::Whiteout { path }),
        2 => path().prop_map(|path| Op::XattrWhiteout { path }),
        1 => (path(), any::<u8>()).prop_map(|(path, value)| Op::Xattr { path, value }),
    ]
}

/// Stacks of two to five layers, the lowest first.
pub fn stacks() -> impl Strategy<Value = Vec<Recipe>> {
    let layer =
        (prop::collection::vec(op(), 1..14), 0..FORMATS).prop_map(|(ops, format)| Recipe { ops, format });
    prop::collection::vec(layer, 2..=5)
}

/// Contents that compress well in parts, with zeros in a row.
fn contents(size: usize, seed: u8) -> Vec<u8> {
    let mut state = u32::from(seed).wrapping_mul(0x9e37_79b9) | 1;
    let mut bytes = Vec::with_capacity(size);
    while bytes.len() < size {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let [a, b, ..] = state.to_be_bytes();
        match a % 4 {
            0 => bytes.extend([b; 40]),
            1 => bytes.extend(state.to_le_bytes()),
            2 => bytes.extend(b"lines that come again and again\n".iter().cycle().take(usize::from(b) * 8)),
            _ if b > 250 => bytes.extend([0; 9000]),
            _ => bytes.extend((0..16).map(|n| b.wrapping_mul(n).wrapping_add(a))),
        }
    }
    bytes.truncate(size);
    bytes
}

/// Puts a layer's things into a tree; what does not go together is left out.
pub fn tree(ops: &[Op], opaque_xattr: &str) -> Tree {
    let mut tree = Tree::new();
    for (number, op) in (0_u32..).zip(ops) {
        let mtime = Timestamp::new(1_700_000_000 + i64::from(number), number * 1000);
        let attributes = Attributes { mode: 0o644, uid: number, gid: 7, mtime };
        // Errors: a name that is taken, or a file on the way.
        let _ = match op {
            Op::File { path, size, seed } => {
                tree.add_file(path.as_bytes(), contents(*size, *seed), &attributes)
            }
            Op::Dir { path, opaque, mode } => {
                let added = tree.add_dir(path.as_bytes(), &Attributes { mode: *mode, ..attributes });
                if added.is_ok() && *opaque {
                    let opaque = Xattr { name: opaque_xattr.into(), value: b"y".to_vec() };
                    tree.set_xattrs(path.as_bytes(), &[opaque]).expect("storable");
                }
                added
            }
            Op::Symlink { path } => tree.add_symlink(path.as_bytes(), b"some/where", &attributes),
            Op::Special { path } => {
                tree.add_special(path.as_bytes(), FileType::Fifo, Rdev::default(), &attributes)
            }
            Op::Link { path, target } => tree.add_link(path.as_bytes(), target.as_bytes()),
            Op::Whiteout { path } => {
                tree.add_special(path.as_bytes(), FileType::CharDevice, Rdev::default(), &attributes)
            }
            Op::XattrWhiteout { path } => xattr_whiteout(&mut tree, path, opaque_xattr, &attributes),
            Op::Xattr { path, value } => {
                let xattr = |name: &str| Xattr { name: name.into(), value: vec![*value; 3] };
                tree.add_file(path.as_bytes(), vec![*value], &attributes).and_then(|()| {
                    tree.set_xattrs(path.as_bytes(), &[xattr("user.larder"), xattr("trusted.larder")])
                })
            }
        };
    }
    tree
}

/// Adds an empty file that is a whiteout, and says so of its directory.
fn xattr_whiteout(
    tree: &mut Tree,
    path: &str,
    opaque_xattr: &str,
    attributes: &Attributes,
) -> Result<(), larder_erofs::Error> {
    tree.add_file(path.as_bytes(), Vec::new(), attributes)?;
    let whiteout = opaque_xattr.replace("opaque", "whiteout");
    tree.set_xattrs(path.as_bytes(), &[Xattr { name: whiteout.into(), value: Vec::new() }])?;
    let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
    let mark = Xattr { name: opaque_xattr.into(), value: b"x".to_vec() };
    // An opaque directory loses its mark: both cannot be said of one.
    tree.set_xattrs(parent.as_bytes(), &[mark])
}

/// How many ways of writing a layer there are.
pub const FORMATS: usize = 10;

/// Writes a layer in one of the ways.
pub fn build(tree: Tree, format: usize) -> Built {
    let lz4 = || vec!["lz4".parse().expect("known")];
    let zstd = || vec!["zstd,level=3".parse().expect("known")];
    let options = match format {
        0 => ImageOptions::default(),
        1 => ImageOptions { inline_data: false, ..ImageOptions::default() },
        2 => ImageOptions { compressors: lz4(), ..ImageOptions::default() },
        3 => ImageOptions {
            compressors: lz4(),
            pcluster_bytes: 16384,
            tail_packing: true,
            ..ImageOptions::default()
        },
        4 => ImageOptions {
            compressors: zstd(),
            pcluster_bytes: 65536,
            fragments: Fragments::Tails,
            ..ImageOptions::default()
        },
        5 => {
            ImageOptions { compressors: zstd(), dedupe: true, tail_packing: true, ..ImageOptions::default() }
        }
        6 => ImageOptions { compressors: lz4(), fragments: Fragments::All, ..ImageOptions::default() },
        7 => ImageOptions { chunk_bits: 14, ..ImageOptions::default() },
        8 => ImageOptions { block_bits: 9, ..ImageOptions::default() },
        _ => return build_data(tree),
    };
    let mut out = Cursor::new(Vec::new());
    write_image(tree, &options, &mut out).expect("writable");
    Built { image: out.into_inner(), devices: Vec::new() }
}

/// An image of metadata, with its data on a device.
fn build_data(tree: Tree) -> Built {
    let mut blob = Vec::new();
    let data = write_data(tree, &Options::default(), &mut blob).expect("writable");
    let mut image = Vec::new();
    let tags = vec![DeviceTag::new(b"a blob").expect("short"); data.devices().len()];
    data.write_metadata(&tags, &mut image).expect("writable");
    let devices = if tags.is_empty() { Vec::new() } else { vec![blob] };
    Built { image, devices }
}

/// What overlayfs shows of the layers, the lowest first.
pub fn model(layers: &[Built], hidden_prefix: &str) -> Listing {
    let mut seen: BTreeMap<Vec<u8>, (Object, (usize, u64))> = BTreeMap::new();
    for (number, layer) in layers.iter().enumerate() {
        let image = Image::open(layer.image.clone()).expect("opens");
        for (path, mut object) in layer.listing() {
            let nid = image.resolve(&path).expect("sound").expect("listed").get();
            let has = |name: &[u8], value: &[u8]| {
                object.xattrs.iter().any(|xattr| xattr.name.ends_with(name) && xattr.value == value)
            };
            let opaque = has(b".overlay.opaque", b"y");
            let empty_whiteout = has(b".overlay.whiteout", b"") && object.data.is_empty();
            object.xattrs.retain(|xattr| !xattr.name.starts_with(hidden_prefix.as_bytes()));
            let is_dir = object.kind == FileType::Directory;
            let was_dir = seen.get(&path).is_some_and(|(object, _)| object.kind == FileType::Directory);
            // The root is always merged.
            if !path.is_empty() && (!is_dir || opaque || !was_dir) {
                let below = [&path[..], b"/"].concat();
                seen.retain(|other, _| *other != path && !other.starts_with(&below));
            }
            let whiteout =
                empty_whiteout || object.kind == FileType::CharDevice && object.rdev == Rdev::default();
            if !whiteout {
                seen.insert(path, (object, (number, nid)));
            }
        }
    }
    let mut links: HashMap<(usize, u64), u64> = HashMap::new();
    let mut subdirs: HashMap<Vec<u8>, u64> = HashMap::new();
    for (path, (object, identity)) in &seen {
        *links.entry(*identity).or_default() += 1;
        if object.kind == FileType::Directory && !path.is_empty() {
            let parent = path.iter().rposition(|&byte| byte == b'/').map_or(&path[..0], |at| &path[..at]);
            *subdirs.entry(parent.to_vec()).or_default() += 1;
        }
    }
    let counted = seen.into_iter().map(|(path, (mut object, identity))| {
        object.nlink = match object.kind {
            FileType::Directory => 2 + subdirs.get(&path).copied().unwrap_or(0),
            _ => links[&identity],
        };
        (path, object)
    });
    counted.collect()
}
