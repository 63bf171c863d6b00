//! The paths of faults: the checker finds them without a table of all names.
//!
//! One test alone in its program, so that the most memory it had is that of this test.

use std::num::NonZero;
use std::sync::Arc;

use larder_erofs::check::{Options, check};
use larder_erofs::writer::{Attributes, Options as WriterOptions, Tree, write_data};
use larder_erofs::{DeviceMode, DeviceTag, Image, MetaSource};

#[test]
fn p5_the_paths_of_faults_take_no_memory_for_names_that_have_none() {
    // Directories below each other, each with many others: all their paths together would be gigabytes.
    let mut tree = Tree::new();
    let attributes = Attributes::default();
    let mut path = Vec::new();
    for _ in 0..150 {
        path.extend([b"d".repeat(250), b"/".to_vec()].concat());
        for n in 0..150 {
            let below = [&path[..], format!("{n}").as_bytes()].concat();
            tree.add_dir(&below, &attributes).expect("a new name");
        }
    }
    let deep = [&path[..], b"file"].concat();
    tree.add_file(&deep, vec![b'x'; 70_000], &attributes).expect("a new name");
    let (mut metadata, mut blob) = (Vec::new(), Vec::new());
    let data = write_data(tree, &WriterOptions::default(), &mut blob).expect("can be written");
    data.write_metadata(&[DeviceTag::EMPTY], &mut metadata).expect("can be written");
    let at = inode_at(&metadata, &deep);
    let extended = metadata[at] & 1 != 0;
    metadata[at + if extended { 44 } else { 6 }] = 7;
    let before = peak_bytes();
    let (image, checksum) = Image::open_unverified(metadata, DeviceMode::Separate).expect("readable");
    let blob: Arc<dyn MetaSource> = Arc::new(blob);
    let options = Options { jobs: NonZero::new(3).expect("not zero"), ..Options::default() };
    let found = check(&image, &[blob], checksum, &options);
    let fault = found.faults.iter().find(|fault| fault.nid.is_some()).expect("the link count");
    assert_eq!(fault.path.as_deref(), Some(&deep[..]));
    if let (Some(before), Some(after)) = (before, peak_bytes()) {
        assert!(after - before < 100 << 20, "{} bytes", after - before);
    }
}

/// The byte at which inode `path` stands, in an image whose inode space begins at byte 0.
fn inode_at(image: &[u8], path: &[u8]) -> usize {
    let image = Image::open(image.to_vec()).expect("sound");
    let nid = image.resolve(path).expect("sound").expect("present");
    usize::try_from(image.superblock().inode_space + nid.get() * 32).expect("small")
}

/// Most memory that this process has had; `None` where that is not said.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib << 10)
}
