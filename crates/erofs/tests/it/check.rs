//! The checker finds nothing in sound images, and every fault in damaged ones.

use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use larder_erofs::check::{FaultKind, Options, Report, Severity, check};
use larder_erofs::writer::{Attributes, Options as WriterOptions, Tree};
use larder_erofs::{DeviceMode, Error, Image, MetaSource, PhysicalAddr, SourceError, Xattr};
use larder_erofs_fuzz::golden;

use crate::support::{Built, build};

const JOBS: usize = 3;

fn options() -> Options<'static> {
    Options { jobs: NonZero::new(JOBS).expect("not zero"), ..Options::default() }
}

fn report(metadata: Vec<u8>, blobs: Vec<Vec<u8>>) -> Report {
    let (image, checksum) =
        Image::open_unverified(metadata, DeviceMode::Separate).expect("the superblock can be read");
    let devices: Vec<Arc<dyn MetaSource>> =
        blobs.into_iter().map(|blob| Arc::new(blob) as Arc<dyn MetaSource>).collect();
    check(&image, &devices, checksum, &options())
}

fn texts(report: &Report) -> Vec<String> {
    report.faults.iter().map(ToString::to_string).collect()
}

/// A small tree whose places are known by name.
fn sample() -> Built {
    let mut tree = Tree::new();
    let attributes = Attributes::default();
    for name in ["a/one", "a/two", "b/three"] {
        tree.add_file(name.as_bytes(), vec![b'x'; 70_000], &attributes).expect("a new name");
    }
    tree.add_symlink(b"link", b"a/one", &attributes).expect("a new name");
    build(tree, &WriterOptions::default()).expect("can be written")
}

/// The byte at which inode `path` stands, in an image whose inode space begins at byte 0.
fn inode_at(image: &[u8], path: &str) -> usize {
    let image = Image::open(image.to_vec()).expect("sound");
    let nid = image.resolve(path.as_bytes()).expect("sound").expect("present");
    usize::try_from(image.superblock().inode_space + nid.get() * 32).expect("small")
}

/// Damages the sample at a place of an inode and says what the checker finds, the checksum aside.
fn damage(path: &str, offset: usize, bytes: &[u8]) -> Vec<String> {
    let Built { mut metadata, blob, .. } = sample();
    let at = inode_at(&metadata, path) + offset;
    metadata[at..at + bytes.len()].copy_from_slice(bytes);
    let found = report(metadata, vec![blob]);
    assert!(!found.is_sound());
    texts(&found).into_iter().filter(|text| !text.contains("checksum")).collect()
}

#[test]
fn golden_images_are_sound() {
    for (name, _) in golden::RECIPES {
        let found = report(golden::image(name), Vec::new());
        assert_eq!(texts(&found), Vec::<String>::new(), "{name}");
        assert!(found.is_sound() && found.inodes > 20 && found.file_bytes > 100_000, "{name}: {found:?}");
        assert!(found.stored_bytes > 0, "{name}");
    }
}

#[test]
fn a_sound_image_with_a_device_is_sound_and_counted() {
    let Built { metadata, blob, summary } = sample();
    let found = report(metadata, vec![blob]);
    assert_eq!(texts(&found), Vec::<String>::new());
    assert_eq!((found.inodes, found.directories, found.entries), (summary.inodes, 3, 6));
    assert_eq!(found.file_bytes, 210_000);
}

#[test]
fn a_wrong_checksum_is_named_and_the_rest_is_checked_nevertheless() {
    let Built { mut metadata, blob, .. } = sample();
    metadata[1024 + 48] ^= 1;
    let at = inode_at(&sample().metadata, "a/one");
    metadata[at + 4] = 0; // the low byte of the mode
    metadata[at + 5] = 0x70; // a type of file that does not exist
    let found = report(metadata, vec![blob]);
    let has = |wanted: &dyn Fn(&FaultKind) -> bool| found.faults.iter().any(|fault| wanted(&fault.kind));
    assert!(has(&|kind| matches!(kind, FaultKind::Library(Error::Checksum { .. }))), "{:?}", texts(&found));
    assert!(has(&|kind| matches!(kind, FaultKind::Library(Error::Mode { .. }))), "{:?}", texts(&found));
    let mode = found.faults.iter().find(|fault| fault.nid.is_some()).expect("the mode");
    assert_eq!(mode.path.as_deref(), Some(b"a/one".as_slice()));
}

#[test]
fn a_link_count_that_lies_is_found() {
    // Compact and extended inodes hold their count at different places.
    let Built { metadata, .. } = sample();
    let extended = metadata[inode_at(&metadata, "a/one")] & 1 != 0;
    let found = damage("a/one", if extended { 44 } else { 6 }, &[7]);
    assert_eq!(found, ["/a/one: 1 names lead here, but the link count is 7"]);
}

#[test]
fn an_entry_that_lies_about_its_type_is_found() {
    let Built { mut metadata, blob, .. } = sample();
    // The entry of the symbolic link in the root: its nid, the offset of its name, then the type.
    let image = Image::open(metadata.clone()).expect("sound");
    let nid = image.resolve(b"link").expect("sound").expect("present");
    let places: Vec<usize> = (0..metadata.len() - 12)
        .filter(|&at| metadata[at..at + 8] == nid.get().to_le_bytes() && metadata[at + 10] == 7)
        .collect();
    let [at] = places[..] else { panic!("the entry is not unique: {places:?}") };
    metadata[at + 10] = 1;
    let found = report(metadata, vec![blob]);
    let text = "/: entry link: names an object of type symbolic link, but says regular file";
    assert!(texts(&found).contains(&text.to_owned()), "{:?}", texts(&found));
}

#[test]
fn names_out_of_order_and_a_missing_dot_are_found() {
    let Built { mut metadata, blob, .. } = sample();
    let names = metadata.windows(6).position(|bytes| bytes == b"onetwo").expect("the names of a");
    metadata[names..names + 6].copy_from_slice(b"twoone");
    let found = texts(&report(metadata, vec![blob]));
    assert!(found.iter().any(|text| text.starts_with("/a: ") && text.contains("out of order")), "{found:?}");

    let Built { mut metadata, blob, .. } = sample();
    let names = metadata.windows(6).position(|bytes| bytes == b"...one").expect("the names of a");
    metadata[names] = b'-';
    let found = texts(&report(metadata, vec![blob]));
    assert!(found.iter().any(|text| text == "/a: directory has no ."), "{found:?}");
}

#[test]
fn a_truncated_image_and_a_truncated_device_are_found() {
    let Built { metadata, blob, .. } = sample();
    let short = report(metadata.clone(), vec![blob[..blob.len() - 8192].to_vec()]);
    assert!(!short.is_sound());
    let truncated = |kind: &FaultKind| matches!(kind, FaultKind::DeviceTruncated { .. });
    assert!(short.faults.iter().any(|fault| truncated(&fault.kind)), "{:?}", texts(&short));
    let outside = |kind: &FaultKind| matches!(kind, FaultKind::Outside { .. });
    assert!(short.faults.iter().any(|fault| outside(&fault.kind)), "{:?}", texts(&short));

    let image = golden::image("lz4");
    let short = report(image[..image.len() - 2048].to_vec(), Vec::new());
    let truncated = |kind: &FaultKind| matches!(kind, FaultKind::Truncated { .. });
    assert!(short.faults.iter().any(|fault| truncated(&fault.kind)), "{:?}", texts(&short));
}

#[test]
fn every_damaged_pcluster_is_named_not_only_the_first() {
    let mut image = golden::image("zstd");
    // Frames begin with this number. Damage three of them.
    let magic = [0x28, 0xb5, 0x2f, 0xfd];
    let frames: Vec<usize> = (0..image.len() - 4).filter(|&at| image[at..at + 4] == magic).collect();
    assert!(frames.len() > 3, "{frames:?}");
    for &at in &frames[1..4] {
        image[at] ^= 0xff;
    }
    let found = report(image, Vec::new());
    let decode = |kind: &FaultKind| matches!(kind, FaultKind::Library(Error::Decode { .. }));
    assert_eq!(found.faults.iter().filter(|fault| decode(&fault.kind)).count(), 3, "{:?}", texts(&found));
    assert!(found.faults.iter().all(|fault| fault.path.is_some()), "{:?}", texts(&found));
}

#[test]
fn a_name_filter_that_hides_a_name_is_found() {
    let mut tree = Tree::new();
    tree.add_file(b"f", b"contents".to_vec(), &Attributes::default()).expect("a new name");
    tree.set_xattrs(b"f", &[Xattr { name: b"user.hidden".to_vec(), value: b"v".to_vec() }])
        .expect("it is there");
    let Built { mut metadata, blob, .. } = build(tree, &WriterOptions::default()).expect("can be written");
    let at = inode_at(&metadata, "f");
    let body = at + if metadata[at] & 1 != 0 { 64 } else { 32 };
    metadata[body..body + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let found = texts(&report(metadata, vec![blob]));
    assert!(found.contains(&"/f: name filter hides extended attribute user.hidden".to_owned()), "{found:?}");
}

#[test]
fn the_report_does_not_depend_on_the_number_of_threads_and_is_bounded() {
    let mut image = golden::image("zstd");
    let magic = [0x28, 0xb5, 0x2f, 0xfd];
    let frames: Vec<usize> = (0..image.len() - 4).filter(|&at| image[at..at + 4] == magic).collect();
    frames.iter().for_each(|&at| image[at] ^= 0xff);
    let image = Image::open(image).expect("the metadata are whole");
    let run = |jobs, faults_max| {
        let options =
            Options { jobs: NonZero::new(jobs).expect("not zero"), faults_max, ..Options::default() };
        check(&image, &[], None, &options)
    };
    let one = run(1, 10_000);
    assert!(one.faults.len() > 3, "{:?}", texts(&one));
    for jobs in [2, 8] {
        assert_eq!(texts(&run(jobs, 10_000)), texts(&one));
    }
    let few = run(2, 3);
    assert_eq!(few.faults.len(), 3);
    assert!(few.unnamed > 0 && !few.is_sound());
}

#[test]
fn warnings_leave_an_image_sound() {
    let Built { mut metadata, blob, .. } = sample();
    metadata[1024 + 16..1024 + 24].copy_from_slice(&99_u64.to_le_bytes());
    let found = report(metadata, vec![blob]);
    let counts: Vec<_> = found.faults.iter().filter(|fault| fault.severity() == Severity::Warning).collect();
    assert_eq!(counts.len(), 1, "{:?}", texts(&found));
    assert!(counts[0].nid.is_none());
}

#[test]
fn only_what_is_below_is_checked_if_so_asked() {
    let Built { mut metadata, blob, .. } = sample();
    let at = inode_at(&metadata, "a/one");
    metadata[at + 5] = 0x70; // a type of file that does not exist
    let (image, _) = Image::open_unverified(metadata, DeviceMode::Separate).expect("readable");
    for (path, inodes, faults) in [("a", 2, 1), ("b", 2, 0), ("b/three", 1, 0), ("", 6, 1)] {
        let from = image.resolve(path.as_bytes()).expect("sound");
        let blob: Arc<dyn MetaSource> = Arc::new(blob.clone());
        let found = check(&image, &[blob], None, &Options { from, ..options() });
        assert_eq!((found.inodes, found.faults.len()), (inodes, faults), "{path}: {:?}", texts(&found));
    }
}

#[test]
fn a_thread_that_panics_ends_the_check() {
    let mut tree = Tree::new();
    for n in 0..2000 {
        tree.add_file(format!("{n}").as_bytes(), vec![b'x'; 5000], &Attributes::default())
            .expect("a new name");
    }
    let Built { metadata, blob, .. } = build(tree, &WriterOptions::default()).expect("can be written");
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let image = Image::open(metadata).expect("sound");
        let blob: Arc<dyn MetaSource> = Arc::new(blob);
        let progress = |_| panic!("on purpose");
        let options = Options { progress: Some(&progress), ..options() };
        let check = || check(&image, &[blob], None, &options);
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check));
        sender.send(ended.is_err()).expect("somebody waits");
    });
    let ended = receiver.recv_timeout(std::time::Duration::from_secs(60));
    assert_eq!(ended, Ok(true), "the panic is passed on, and nobody waits for ever");
}

/// An image that counts how often it is read.
struct Counting(Vec<u8>, Arc<AtomicUsize>);

impl MetaSource for Counting {
    fn read_exact_at(&self, at: PhysicalAddr, buf: &mut [u8]) -> Result<(), SourceError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.read_exact_at(at, buf)
    }

    fn len(&self) -> u64 {
        self.0.len() as u64
    }
}

#[test]
fn p5_the_names_above_faults_are_read_once_for_all_of_them() {
    const DEPTH: usize = 100;
    let mut tree = Tree::new();
    let deep = "d/".repeat(DEPTH);
    let paths: Vec<String> = (0..300).map(|n| format!("{deep}{n:03}")).collect();
    for path in &paths {
        tree.add_file(path.as_bytes(), Vec::new(), &Attributes::default()).expect("a new name");
    }
    let Built { mut metadata, .. } = build(tree, &WriterOptions::default()).expect("can be written");
    let image = Image::open(metadata.clone()).expect("sound");
    for path in &paths {
        let nid = image.resolve(path.as_bytes()).expect("sound").expect("present");
        let at = usize::try_from(image.superblock().inode_space + nid.get() * 32).expect("small");
        let extended = metadata[at] & 1 != 0;
        metadata[at + if extended { 44 } else { 6 }] = 7;
    }
    let reads = Arc::<AtomicUsize>::default();
    let source = Counting(metadata, Arc::clone(&reads));
    let (image, _) = Image::open_unverified(source, DeviceMode::Separate).expect("readable");
    let found = check(&image, &[], None, &options());
    let named: Vec<&[u8]> = found.faults.iter().filter_map(|fault| fault.path.as_deref()).collect();
    assert!(paths.iter().all(|path| named.contains(&path.as_bytes())), "{} paths", named.len());
    let reads = reads.load(Ordering::Relaxed);
    assert!(reads < paths.len() * DEPTH / 2, "{reads} reads");
}
