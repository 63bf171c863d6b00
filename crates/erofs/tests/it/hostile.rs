//! Damaged images: an error or wrong data, never a panic, never without end.

use std::sync::LazyLock;

use larder_erofs::writer::{Attributes, Tree};
use larder_erofs::{DirFault, Error, FileType, Image, Rdev, Xattr};
use larder_erofs_fuzz::exercise::exercise;
use proptest::prelude::*;

use crate::support::{Built, build, options};

const SUPERBLOCK_AT: usize = 1024;

/// A small image with one of everything.
fn small() -> &'static Built {
    static SMALL: LazyLock<Built> = LazyLock::new(make_small);
    &SMALL
}

fn make_small() -> Built {
    let mut tree = Tree::new();
    let attributes = Attributes::default();
    let other = Attributes { uid: 70_000, ..attributes };
    tree.add_file(b"dir/file", vec![7; 100], &attributes).expect("new");
    let mut chunks = vec![1; 1 << 16];
    chunks.extend(vec![0; 1 << 16]);
    chunks.extend(vec![2; 5000]);
    tree.add_file(b"dir/chunks", chunks, &other).expect("new");
    tree.add_symlink(b"dir/link", b"target", &attributes).expect("new");
    tree.add_symlink(b"dir/long", &[b'x'; 4090], &other).expect("new");
    tree.add_special(b"null", FileType::CharDevice, Rdev::new(1, 3).expect("small"), &attributes)
        .expect("new");
    for number in 0..120 {
        tree.add_link(format!("many/{number:03}-{}", "n".repeat(number % 40)).as_bytes(), b"dir/file")
            .expect("new");
    }
    tree.add_dir(b"many/below/deeper", &other).expect("new");
    let xattr = |name: &str, value: &[u8]| Xattr { name: name.into(), value: value.to_vec() };
    let set = [xattr("user.a", b"shared by all"), xattr("trusted.b", &[9; 300])];
    for path in [b"dir".as_slice(), b"many", b"dir/link", b"dir/file"] {
        tree.set_xattrs(path, &set).expect("storable");
    }
    tree.set_xattrs(b"dir/chunks", &[xattr("user.only", b"here"), xattr("security.x", b"")])
        .expect("storable");
    build(tree, &options(1)).expect("can be written")
}

/// Makes the kernel's first barrier pass, so that what lies behind it is reached.
fn without_checksum(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[SUPERBLOCK_AT + 8] &= !1;
    bytes
}

#[test]
fn an_intact_image_passes_the_exercise() {
    exercise(&small().metadata);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn flipped_bytes_never_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12)) {
        let mut bytes = without_checksum(small().metadata.clone());
        for (index, value) in flips {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        exercise(&bytes);
    }

    #[test]
    fn extreme_numbers_in_the_head_never_panic(
        at in SUPERBLOCK_AT..SUPERBLOCK_AT + 1200,
        value in prop::sample::select(vec![0_u64, 1, 0x7fff, 0xffff, u32::MAX.into(), 1 << 63, u64::MAX >> 1, u64::MAX]),
        width in 1_usize..=8,
    ) {
        let mut bytes = without_checksum(small().metadata.clone());
        bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
        exercise(&bytes);
    }

    #[test]
    fn any_bytes_after_a_sound_superblock_never_panic(tail in prop::collection::vec(any::<u8>(), 0..8192)) {
        let mut bytes = without_checksum(small().metadata.clone());
        bytes.truncate(SUPERBLOCK_AT + 128);
        bytes.extend(tail);
        exercise(&bytes);
    }

    #[test]
    fn a_truncated_image_never_panics(len in any::<prop::sample::Index>()) {
        let mut bytes = without_checksum(small().metadata.clone());
        bytes.truncate(len.index(bytes.len()));
        exercise(&bytes);
    }
}

#[test]
fn one_flipped_bit_in_the_first_block_is_a_wrong_checksum() {
    let good = small().metadata.clone();
    for at in [SUPERBLOCK_AT + 20, SUPERBLOCK_AT + 200, 4095] {
        let mut bytes = good.clone();
        bytes[at] ^= 4;
        assert!(matches!(Image::open(bytes), Err(Error::Checksum { .. })), "bit at {at}");
    }
}

/// Points the entry `name` of the directory at `path` to another inode.
fn redirect(bytes: &mut [u8], path: &[u8], name: &[u8], nid: u64) {
    let image = Image::open(bytes.to_vec()).expect("sound");
    let dir = image.inode(image.resolve(path).expect("sound").expect("present")).expect("sound");
    let old = image.lookup(&dir, name).expect("sound").expect("present").nid.get();
    // The entry is the only place with this number followed by a name offset and the kind "directory".
    let wanted = old.to_le_bytes();
    let at = bytes
        .windows(12)
        .position(|window| window[..8] == wanted && window[10] == 2 && window[11] == 0)
        .expect("the entry is somewhere");
    bytes[at..at + 8].copy_from_slice(&nid.to_le_bytes());
}

#[test]
fn a_directory_that_contains_itself_ends_the_walk() {
    let mut tree = Tree::new();
    tree.add_dir(b"a/b", &Attributes::default()).expect("new");
    let mut bytes = without_checksum(build(tree, &options(1)).expect("written").metadata);
    let image = Image::open(bytes.clone()).expect("sound");
    let b = image.resolve(b"a/b").expect("sound").expect("present");
    let root = image.root();
    // `a/b/.` first, then make the entry `b` in `a` lead to the root.
    let mut replaced = 0;
    for at in (0..bytes.len() - 12).step_by(4) {
        if bytes[at..at + 8] == b.get().to_le_bytes() && bytes[at + 10] == 2 {
            bytes[at..at + 8].copy_from_slice(&root.get().to_le_bytes());
            replaced += 1;
        }
    }
    assert!(replaced > 0, "the entry was found");
    let image = Image::open(bytes).expect("the superblock is sound");
    let errors: Vec<_> = image.walk().filter_map(Result::err).collect();
    assert!(matches!(errors[..], [Error::DirectoryLinkedTwice { .. }]), "{errors:?}");
}

#[test]
fn a_node_number_out_of_range_is_an_error() {
    for nid in [u64::MAX >> 1, u64::MAX, 1 << 60, 1 << 40] {
        let mut tree = Tree::new();
        tree.add_dir(b"a", &Attributes::default()).expect("new");
        let mut bytes = without_checksum(build(tree, &options(1)).expect("written").metadata);
        redirect(&mut bytes, b"", b"a", nid);
        let image = Image::open(bytes).expect("the superblock is sound");
        let errors: Vec<_> = image.walk().filter_map(Result::err).collect();
        assert_eq!(errors.len(), 1, "{nid:#x}: {errors:?}");
        assert!(
            matches!(errors[0], Error::NidOverflow { .. } | Error::InMetabox { .. } | Error::Read { .. }),
            "{errors:?}"
        );
    }
}

#[test]
fn a_listing_out_of_order_is_an_error() {
    let mut tree = Tree::new();
    tree.add_file(b"aaaa", vec![], &Attributes::default()).expect("new");
    tree.add_file(b"bbbb", vec![], &Attributes::default()).expect("new");
    let mut bytes = without_checksum(build(tree, &options(1)).expect("written").metadata);
    let at = bytes.windows(8).position(|window| window == b"aaaabbbb").expect("the names");
    bytes[at..at + 8].copy_from_slice(b"bbbbaaaa");
    let image = Image::open(bytes).expect("sound");
    let root = image.inode(image.root()).expect("sound");
    let last = image.read_dir(&root).expect("a directory").last().expect("entries");
    assert!(matches!(last, Err(Error::Directory { fault: DirFault::Order { .. }, .. })), "{last:?}");
}
