//! Taking in directories of the host: what is read, what is left out, what is an error.

use std::fs;
use std::io::{self, Cursor};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use larder_erofs::writer::{
    Attributes, DirectoryOptions, ImageOptions, ScanOptions, Tree, write_data, write_image_from_dir,
};
use larder_erofs::{Error, Image};
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};

use crate::support::{build, build_dir, is_root, list_image, options, scan};

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

/// The same through the pipeline, to which the scan gives files while it goes on.
#[test]
fn what_happens_while_a_directory_is_encoded_is_an_error_that_names_it() {
    for (happens, jobs) in [("gone", 1), ("gone", 2), ("changed", 1), ("changed", 2)] {
        let dir = tempfile::tempdir().expect("can make");
        for number in 0..100 {
            fs::write(dir.path().join(format!("file-{number:02}")), [1; 5000]).expect("can write");
        }
        fs::create_dir(dir.path().join("last")).expect("can make");
        let filter = |entry: &larder_erofs::writer::ScanEntry<'_>| {
            match (happens, entry.path) {
                ("gone", b"last") => fs::remove_dir(dir.path().join("last")).expect("may"),
                ("changed", b"file-50") => fs::write(dir.path().join("file-49"), [2; 6000]).expect("may"),
                _ => {}
            }
            true
        };
        let from = DirectoryOptions { filter: Some(&filter), ..DirectoryOptions::default() };
        let jobs = std::num::NonZero::new(jobs).expect("not zero");
        let options = ImageOptions { jobs, ..ImageOptions::default() };
        let written = write_image_from_dir(dir.path(), &from, &options, &mut Cursor::new(Vec::new()));
        match (happens, written.expect_err(happens)) {
            ("gone", Error::Scan { path, .. }) => assert_eq!(path, dir.path().join("last")),
            ("changed", Error::Changed { path }) => assert_eq!(path, dir.path().join("file-49")),
            (happens, error) => panic!("{happens}: {error}"),
        }
    }
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
fn attributes_that_are_not_asked_for_stay_as_they_are() {
    let dir = tempfile::tempdir().expect("can make");
    fs::create_dir(dir.path().join("lib")).expect("can make");
    let mut tree = Tree::new();
    let all = &mut |_: &larder_erofs::writer::ScanEntry<'_>| true;
    tree.add_root_from(dir.path(), b"", &ScanOptions::default(), all).expect("readable");
    let mine = larder_erofs::Xattr { name: b"user.mine".to_vec(), value: b"1".to_vec() };
    tree.set_xattrs(b"lib", std::slice::from_ref(&mine)).expect("is there");
    let how = ScanOptions { xattrs: false, ..ScanOptions::default() };
    tree.add_root_from(dir.path(), b"", &how, all).expect("readable");
    let image = Image::open(build(tree, &options(1)).expect("can be written").metadata).expect("opens");
    let lib = image.inode(image.resolve(b"lib").expect("sound").expect("is there")).expect("sound");
    assert_eq!(image.xattrs(&lib).expect("sound"), [mine]);
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
