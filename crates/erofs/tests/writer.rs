//! What the writer promises beyond a round trip.

mod support;

use std::fs;
use std::io;
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use larder_erofs::writer::{
    Attributes, BlobSink, DataDevice, Dictionary, Options, ScanOptions, Tree, write_data,
};
use larder_erofs::{DeviceTag, Error, ExtentKind, Image, Layout, LogicalAddr, Timestamp, Xattr};
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use support::{assert_same, build, build_dir, is_root, list_host, list_image, options, scan, sparse_file};

fn noise(seed: u8, len: usize) -> Vec<u8> {
    (0..len)
        .map(|n| u8::try_from((n * n / 7 + n / 255 + usize::from(seed) * 31) % 251).unwrap_or(0))
        .collect()
}

#[test]
fn a_sparse_file_of_a_tebibyte_costs_its_data_and_a_bounded_table() {
    let dir = tempfile::tempdir().expect("can make");
    let (data, len) = (noise(1, 5000), 1 << 40);
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
fn paths_longer_than_the_kernel_takes_at_once_are_read() {
    let dir = tempfile::tempdir().expect("can make");
    let mut at: OwnedFd = openat(CWD, dir.path(), OFlags::DIRECTORY, Mode::empty()).expect("opens");
    let mut path = Vec::new();
    for level in 0..30 {
        let name = format!("{level:02}{}", "d".repeat(200));
        mkdirat(&at, name.as_str(), Mode::RWXU).expect("can make");
        at = openat(&at, name.as_str(), OFlags::DIRECTORY, Mode::empty()).expect("opens");
        path.extend_from_slice(name.as_bytes());
        path.push(b'/');
    }
    let file = openat(&at, "file", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).expect("can make");
    rustix::io::write(&file, b"far down").expect("can write");
    path.extend_from_slice(b"file");
    let built = build_dir(dir.path(), &options(2)).expect("can be written");
    let image = Image::open(built.metadata).expect("opens");
    let listing = list_image(&image, &[&built.blob]).expect("readable");
    assert_eq!(listing[&path].data, b"far down");
}

#[test]
fn a_file_that_changed_since_the_scan_is_an_error_that_names_it() {
    type Change = fn(&Path) -> io::Result<()>;
    let changes: [(&str, Change); 5] = [
        ("rewritten", |path| fs::write(path, [3; 100])),
        ("grown", |path| fs::write(path, [1; 200])),
        ("shrunk", |path| fs::write(path, [1; 50])),
        ("gone", |path| fs::remove_file(path)),
        ("replaced", |path| {
            fs::write(path.with_extension("new"), [1; 100])?;
            fs::rename(path.with_extension("new"), path)
        }),
    ];
    for (name, change) in changes {
        let dir = tempfile::tempdir().expect("can make");
        for other in 0..10 {
            fs::write(dir.path().join(format!("{other}")), [2; 100]).expect("can write");
        }
        let file = dir.path().join("the-file");
        fs::write(&file, [1; 100]).expect("can write");
        let tree = scan(dir.path()).expect("readable");
        let modified = fs::metadata(&file).and_then(|stat| stat.modified()).expect("there");
        change(&file).expect("can change");
        // Each sign of change must do by itself: the time is put back.
        if name != "rewritten" && name != "gone" {
            fs::File::options()
                .append(true)
                .open(&file)
                .and_then(|file| file.set_modified(modified))
                .expect("may");
        }
        let error = write_data(tree, &options(2), &mut Vec::new()).expect_err(name);
        let expected = match name {
            "gone" => matches!(error, Error::Scan { .. }),
            _ => matches!(error, Error::Changed { .. }),
        };
        assert!(expected && error.to_string().contains("the-file"), "{name}: {error}");
    }
}

#[test]
fn an_unreadable_file_is_an_error_that_names_it() {
    if is_root() {
        eprintln!("SKIPPED: root can read everything");
        return;
    }
    let dir = tempfile::tempdir().expect("can make");
    let file = dir.path().join("secret");
    fs::write(&file, b"x").expect("can write");
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o000)).expect("can chmod");
    let tree = scan(dir.path()).expect("its name can be read");
    let error = write_data(tree, &options(1), &mut Vec::new()).expect_err("unreadable");
    assert!(error.to_string().contains("secret") && error.hint().is_some(), "{error}");
}

#[test]
fn a_missing_source_is_an_error_that_names_it() {
    let error = scan(Path::new("/nonexistent/source")).expect_err("missing");
    assert!(error.to_string().contains("/nonexistent/source"), "{error}");
    assert_eq!(error.errno(), rustix::io::Errno::NOENT.raw_os_error());
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
        fs::write(dir.path().join(format!("{number}")), noise(number, 300_000)).expect("can write");
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
fn what_a_dictionary_has_is_referred_to_and_only_the_rest_is_stored() {
    let attributes = Attributes::default();
    let old_file = noise(1, 200_000);
    let mut tree = Tree::new();
    tree.add_file(b"old", old_file.clone(), &attributes).expect("new");
    tree.add_file(b"hole", vec![0; 1 << 20], &attributes).expect("new");
    let old = build(tree, &options(1)).expect("can be written");
    let old_image = Image::open(old.metadata.clone()).expect("opens");
    let dictionary = || {
        Dictionary::from_image(&old_image, 16, &mut |_, pa, buf| {
            let start = usize::try_from(pa.get()).expect("small");
            buf.copy_from_slice(&old.blob[start..start + buf.len()]);
            Ok(())
        })
        .expect("readable")
    };
    assert_eq!(dictionary().len(), 4);

    let mut new_file = old_file.clone();
    new_file[70_000] ^= 1;
    let mut tree = Tree::new();
    tree.add_file(b"a-copy", old_file.clone(), &attributes).expect("new");
    tree.add_file(b"b-changed", new_file.clone(), &attributes).expect("new");
    let unused = Dictionary::new(old_image.superblock().block_size, dictionary().devices().to_vec());
    let options = Options { dictionaries: vec![unused, dictionary()], ..options(2) };
    let mut blob = Vec::new();
    let data = write_data(tree, &options, &mut blob).expect("can be written");
    assert_eq!(blob.len(), 65536, "one chunk differs");
    let expected = [
        DataDevice::Blob { bytes: 65536 },
        DataDevice::Dictionary { dictionary: 1, device: 0, slot: dictionary().devices()[0] },
    ];
    assert_eq!(data.devices(), expected);

    let tags = [DeviceTag::new(b"new").expect("short"), DeviceTag::new(b"old").expect("short")];
    let mut metadata = Vec::new();
    let wrong = data.write_metadata(&tags[..1], &mut metadata).expect_err("a tag is missing");
    assert!(matches!(wrong, Error::DeviceTags { found: 1, expected: 2 }));
    data.write_metadata(&tags, &mut metadata).expect("can be written");
    let image = Image::open(metadata).expect("opens");
    assert_eq!(image.devices()[1].tag.text(), b"old");
    assert_eq!(image.devices()[1].blocks * 4096, old.blob.len() as u64);
    let listing = list_image(&image, &[&blob, &old.blob]).expect("readable");
    assert!(listing[b"a-copy".as_slice()].data == old_file);
    assert!(listing[b"b-changed".as_slice()].data == new_file);
}

#[test]
fn an_image_that_dictionaries_cover_has_no_blob_of_its_own() {
    let mut tree = Tree::new();
    tree.add_file(b"file", noise(1, 100), &Attributes::default()).expect("new");
    let old = build(tree, &options(1)).expect("can be written");
    let image = Image::open(old.metadata).expect("opens");
    let mut dictionary = Dictionary::from_image(&image, 16, &mut |_, _, buf| {
        buf.copy_from_slice(&old.blob[..buf.len()]);
        Ok(())
    })
    .expect("readable");
    assert!(!dictionary.insert(&[0; 32], larder_erofs::DeviceId::new(2), 0), "there is one device");

    let mut tree = Tree::new();
    tree.add_file(b"same", noise(1, 100), &Attributes::default()).expect("new");
    let options = Options { dictionaries: vec![dictionary], ..options(1) };
    let built = build(tree, &options).expect("can be written");
    assert!(built.blob.is_empty());
    let image = Image::open(built.metadata).expect("opens");
    assert_eq!(image.devices().len(), 1);
    let listing = list_image(&image, &[&old.blob]).expect("readable");
    assert!(listing[b"same".as_slice()].data == noise(1, 100));
}

#[test]
fn several_sources_share_an_image_and_a_name_is_taken_once() {
    let (one, two) = (tempfile::tempdir().expect("can make"), tempfile::tempdir().expect("can make"));
    fs::create_dir(one.path().join("both")).expect("can make");
    fs::create_dir(two.path().join("both")).expect("can make");
    fs::write(one.path().join("both/one"), b"1").expect("can write");
    fs::write(two.path().join("both/two"), b"2").expect("can write");
    let mut tree = Tree::new();
    let all = &mut |_: &larder_erofs::writer::ScanEntry<'_>| true;
    tree.add_symlink(b"bin", b"usr/bin", &Attributes::default()).expect("new");
    tree.add_root_from(one.path(), b"usr", &ScanOptions::default(), all).expect("readable");
    tree.add_root_from(two.path(), b"usr/", &ScanOptions::default(), all).expect("readable");
    let again = tree.add_root_from(two.path(), b"usr", &ScanOptions::default(), all);
    assert!(matches!(again, Err(Error::Exists { .. })), "{again:?}");
    let taken = tree.add_root_from(two.path(), b"bin", &ScanOptions::default(), all);
    assert!(matches!(taken, Err(Error::Exists { .. })), "{taken:?}");
    let built = build(tree, &options(1)).expect("can be written");
    let image = Image::open(built.metadata).expect("opens");
    for path in [b"usr/both/one".as_slice(), b"usr/both/two", b"bin"] {
        assert!(image.resolve(path).expect("sound").is_some());
    }
}

#[test]
fn the_filter_sees_a_directory_before_its_contents_and_can_cap_the_size() {
    let dir = tempfile::tempdir().expect("can make");
    for name in ["a", "b", "c"] {
        fs::create_dir(dir.path().join(name)).expect("can make");
        fs::write(dir.path().join(name).join("file"), [1; 1000]).expect("can write");
        fs::hard_link(dir.path().join(name).join("file"), dir.path().join(name).join("link"))
            .expect("can link");
    }
    let (mut seen, mut bytes) = (Vec::new(), 0);
    let mut tree = Tree::new();
    let report = tree.add_root_from(dir.path(), b"", &ScanOptions::default(), &mut |entry| {
        seen.push(String::from_utf8_lossy(entry.path).into_owned());
        let fits = bytes + entry.data_bytes <= 2000;
        bytes += if fits { entry.data_bytes } else { 0 };
        fits && entry.path != b"b"
    });
    let report = report.expect("readable");
    assert_eq!(seen, ["a", "b", "c", "a/file", "a/link", "c/file", "c/link"]);
    assert_eq!((report.entries, report.filtered, tree.total_bytes()), (6, 1, 2000));
}

#[test]
fn other_file_systems_are_left_out_when_asked() {
    let device = |path| fs::metadata(path).map(|stat| stat.dev());
    let (Ok(dev), Ok(pts)) = (device("/dev"), device("/dev/pts")) else {
        eprintln!("SKIPPED: /dev/pts is not here");
        return;
    };
    if dev == pts {
        eprintln!("SKIPPED: /dev/pts is not a mount point");
        return;
    }
    for one_file_system in [true, false] {
        let mut tree = Tree::new();
        let options = ScanOptions { one_file_system, xattrs: false };
        let mut below = 0;
        tree.add_root_from(Path::new("/dev"), b"", &options, &mut |entry| {
            below += u32::from(entry.path.starts_with(b"pts/"));
            entry.path.starts_with(b"pts")
        })
        .expect("readable");
        assert_eq!((below == 0, tree.len() > 1), (one_file_system, true));
    }
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
fn the_order_of_creation_does_not_show() {
    let build_in_order = |names: &[&str]| {
        let dir = tempfile::tempdir().expect("can make");
        let time = rustix::fs::Timespec { tv_sec: 1000, tv_nsec: 0 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        for name in names {
            fs::write(dir.path().join(name), name).expect("can write");
            rustix::fs::utimensat(CWD, dir.path().join(name), &times, rustix::fs::AtFlags::empty())
                .expect("can");
        }
        rustix::fs::utimensat(CWD, dir.path(), &times, rustix::fs::AtFlags::empty()).expect("can");
        build_dir(dir.path(), &options(2)).expect("can be written")
    };
    assert_eq!(build_in_order(&["x", "y", "z"]).metadata, build_in_order(&["z", "x", "y"]).metadata);
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
