//! What the writer promises beyond a round trip.

use std::fs;
use std::io;
use std::num::NonZero;

use larder_erofs::writer::{Attributes, BlobSink, Options, Tree, write_data};
use larder_erofs::{DeviceTag, Error, ExtentKind, Image, Layout, LogicalAddr, Timestamp, Xattr};

use crate::support::{
    assert_same, build, build_dir, list_host, list_image, options, pattern, scan, sparse_file,
};

#[test]
fn a_sparse_file_of_a_tebibyte_costs_its_data_and_a_bounded_table() {
    let dir = tempfile::tempdir().expect("can make");
    let (data, len) = (pattern(1, 5000), 1 << 40);
    let at = [0, (1 << 39) + 12345, len - 5000];
    sparse_file(&dir.path().join("huge"), len, &at.map(|at| (at, data.as_slice())));
    sparse_file(&dir.path().join("nothing"), 15 << 40, &[]);
    let built = build_dir(dir.path(), &options(2)).expect("can be written");
    assert!(built.blob.len() <= 3 << 20, "the blob has {} bytes", built.blob.len());
    assert!(built.metadata.len() <= 9 << 20, "the image has {} bytes", built.metadata.len());

    let image = Image::open(built.metadata).expect("opens");
    let huge = image.inode(image.resolve(b"huge").expect("sound").expect("present")).expect("sound");
    assert_eq!((huge.size, huge.layout), (len, Layout::ChunkBased));
    for at in at {
        let mut found = vec![0; 5000];
        image
            .read_exact_at(&huge, LogicalAddr::new(at), &mut found, &mut |_, pa, buf| {
                let start = usize::try_from(pa.get()).expect("small");
                buf.copy_from_slice(&built.blob[start..start + buf.len()]);
                Ok(())
            })
            .expect("readable");
        assert!(found == data, "at {at}");
    }
    let hole = image.map(&huge, LogicalAddr::new(1 << 38)).expect("sound");
    assert_eq!(hole.kind, ExtentKind::Hole);
    let nothing = image.inode(image.resolve(b"nothing").expect("sound").expect("present")).expect("sound");
    let extent = image.map(&nothing, LogicalAddr::new(0)).expect("sound");
    assert_eq!((extent.kind, extent.len), (ExtentKind::Hole, 15 << 40));
}

#[test]
fn fifty_thousand_names_are_listed_from_any_place_and_looked_up() {
    let mut tree = Tree::new();
    tree.add_file(b"one", vec![1], &Attributes::default()).expect("new");
    for number in 0..50_000 {
        tree.add_link(format!("dir/{number:07}").as_bytes(), b"one").expect("new");
    }
    let built = build(tree, &options(1)).expect("can be written");
    let image = Image::open(built.metadata).expect("opens");
    let dir = image.inode(image.resolve(b"dir").expect("sound").expect("present")).expect("sound");
    let all: Vec<_> = image.read_dir(&dir).expect("a directory").collect::<Result<_, _>>().expect("sound");
    assert_eq!(all.len(), 50_002);
    for pair in all.windows(2).step_by(997) {
        let next = image.read_dir_from(&dir, pair[0].next).expect("a directory").next();
        assert_eq!(next.expect("more").expect("sound"), pair[1]);
    }
    for entry in all.iter().step_by(101) {
        assert_eq!(image.lookup(&dir, &entry.name).expect("sound").as_ref(), Some(entry));
    }
    assert_eq!(image.lookup(&dir, b"0050000").expect("sound"), None);
    let one = image.inode(image.resolve(b"one").expect("sound").expect("present")).expect("sound");
    assert_eq!(one.nlink, 50_001);
}

#[test]
fn a_sink_that_fails_ends_the_writing() {
    struct Full(usize);
    impl BlobSink for Full {
        fn write(&mut self, data: &[u8]) -> io::Result<()> {
            self.0 = self.0.checked_sub(data.len()).ok_or(io::ErrorKind::StorageFull)?;
            Ok(())
        }
    }
    let dir = tempfile::tempdir().expect("can make");
    for number in 0..40_u8 {
        fs::write(dir.path().join(format!("{number}")), pattern(number, 300_000)).expect("can write");
    }
    let tree = scan(dir.path()).expect("readable");
    let error = write_data(tree, &options(4), &mut Full(3 << 20)).expect_err("full");
    assert!(matches!(error, Error::WriteBlob { .. }), "{error}");
}

#[test]
fn times_after_the_timestamp_are_set_to_it_and_earlier_ones_stay() {
    let mut tree = Tree::new();
    let at = |seconds, nanoseconds| Attributes {
        mtime: Timestamp::new(seconds, nanoseconds),
        ..Attributes::default()
    };
    for (name, seconds, nanoseconds) in
        [("early", 500, 7), ("exact", 1000, 0), ("late", 1000, 1), ("later", 5000, 0)]
    {
        tree.add_file(name.as_bytes(), vec![1], &at(seconds, nanoseconds)).expect("new");
    }
    let built = build(tree, &Options { timestamp: Some(1000), ..options(1) }).expect("can be written");
    let image = Image::open(built.metadata).expect("opens");
    let mtime = |name: &[u8]| {
        image.inode(image.resolve(name).expect("sound").expect("present")).expect("sound").mtime
    };
    assert_eq!(mtime(b"early"), Timestamp::new(500, 7));
    for name in [b"exact".as_slice(), b"late", b"later"] {
        assert_eq!(mtime(name), Timestamp::new(1000, 0));
    }
    assert_eq!(image.superblock().epoch, Timestamp::new(1000, 0), "the most frequent time");
    assert_eq!(image.superblock().build_time, 1000);
}

#[test]
fn attributes_of_more_than_two_inodes_are_stored_once() {
    let value = vec![b'v'; 2000];
    let image_bytes = |inodes: u32| {
        let mut tree = Tree::new();
        for number in 0..inodes {
            let path = format!("{number}");
            tree.add_file(path.as_bytes(), vec![], &Attributes::default()).expect("new");
            let xattr = Xattr { name: b"user.big".to_vec(), value: value.clone() };
            tree.set_xattrs(path.as_bytes(), &[xattr]).expect("storable");
        }
        build(tree, &options(1)).expect("can be written").metadata
    };
    let copies = |bytes: &[u8]| bytes.windows(2000).filter(|window| *window == value).count();
    assert_eq!([1, 2, 3, 50].map(|inodes| copies(&image_bytes(inodes))), [1, 2, 1, 1]);
}

#[test]
fn three_hundred_shared_attributes_fit_although_a_byte_counts_them() {
    let xattrs: Vec<_> = (0..300)
        .map(|number| Xattr { name: format!("user.{number:03}").into(), value: vec![1, 2, 3] })
        .collect();
    let mut tree = Tree::new();
    for path in [b"a".as_slice(), b"b", b"c"] {
        tree.add_file(path, vec![], &Attributes::default()).expect("new");
        tree.set_xattrs(path, &xattrs).expect("storable");
    }
    let built = build(tree, &options(1)).expect("can be written");
    let image = Image::open(built.metadata).expect("opens");
    assert_eq!(list_image(&image, &[]).expect("readable")[b"b".as_slice()].xattrs, xattrs);
}

#[test]
fn the_uuid_follows_the_contents_and_the_tags() {
    let uuid = |contents: &[u8], tag: &[u8]| {
        let mut tree = Tree::new();
        tree.add_file(b"file", contents.to_vec(), &Attributes::default()).expect("new");
        let data = write_data(tree, &options(1), &mut Vec::new()).expect("can be written");
        let tag = DeviceTag::new(tag).expect("short");
        data.write_metadata(&[tag], &mut Vec::new()).expect("can be written").uuid
    };
    assert_eq!(uuid(b"one", b""), uuid(b"one", b""));
    assert_ne!(uuid(b"one", b""), uuid(b"two", b""));
    assert_ne!(uuid(b"one", b"a"), uuid(b"one", b"b"));
}

#[test]
fn what_follows_a_file_in_its_last_block_is_zeros() {
    // More than all buffers hold together, so that each is used again with other lengths.
    let mut tree = Tree::new();
    for number in 0..2000_u32 {
        let mut contents = number.to_le_bytes().to_vec();
        contents.resize(5000 + usize::try_from(number * 37 % 4000).expect("small"), 0xff);
        tree.add_file(format!("{number}").as_bytes(), contents, &Attributes::default()).expect("new");
    }
    let built = build(tree, &options(1)).expect("can be written");
    let image = Image::open(built.metadata).expect("opens");
    for entry in image.walk().skip(1) {
        let inode = entry.expect("sound").inode;
        let extent = image.map(&inode, LogicalAddr::new(0)).expect("sound");
        let ExtentKind::Device { pa, .. } = extent.kind else { panic!("{extent:?}") };
        let end = usize::try_from(pa.get() + extent.len).expect("small");
        let padding = &built.blob[end..end.next_multiple_of(4096)];
        assert!(padding.iter().all(|&byte| byte == 0), "after {}", inode.nid);
    }
}

#[test]
fn an_empty_tree_is_an_image_too() {
    let dir = tempfile::tempdir().expect("can make");
    let built = build_dir(dir.path(), &options(1)).expect("can be written");
    assert!(built.blob.is_empty());
    let image = Image::open(built.metadata).expect("opens");
    assert_same(&list_image(&image, &[]).expect("readable"), &list_host(dir.path()));
}

#[test]
fn options_that_do_not_go_together_are_refused() {
    for (block_bits, chunk_bits) in [(12, 11), (12, 25), (8, 12), (17, 17)] {
        let options = Options { block_bits, chunk_bits, jobs: NonZero::<usize>::MIN, ..Options::default() };
        let error = write_data(Tree::new(), &options, &mut Vec::new()).expect_err("refused");
        assert!(matches!(error, Error::ChunkSize { .. } | Error::BlockSize { .. }), "{error}");
    }
}
