//! Archives become the images that their contents, unpacked, would have become; what is damaged is refused.

use std::fs;
use std::io::Cursor;
use std::path::Path;
use std::process::Command;

use larder_erofs::writer::{
    ImageOptions, Options, ScanOptions, TarOptions, Tree, index_tar, write_data, write_data_from_tar,
    write_image_from_tar,
};
use larder_erofs::{DeviceMode, DeviceTag, Error, FileType, Image, LogicalAddr, Rdev};
use larder_erofs_fuzz::archive::{claims, header, mend, records};
use larder_erofs_fuzz::corpus;
use proptest::prelude::*;

use crate::support::kernel::Mounted;
use crate::support::{Listing, assert_same, list_host, list_image, sparse_file, tempdir};

/// Packs a directory with GNU tar; `None`, and says so, when it is not here.
fn pack(tree: &Path, options: &[&str]) -> Option<Vec<u8>> {
    let output = Command::new("tar").args(options).args(["-C"]).arg(tree).args(["-c", "."]).output();
    match output {
        Ok(output) if output.status.success() => Some(output.stdout),
        Ok(output) => panic!("tar: {}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => {
            eprintln!("SKIPPED: tar cannot run here: {error}");
            None
        }
    }
}

fn from_tar(archive: &[u8], tar: &TarOptions<'_>, options: &ImageOptions<'_>) -> Result<Vec<u8>, Error> {
    let mut out = Cursor::new(Vec::new());
    write_image_from_tar(archive, tar, options, &mut out)?;
    Ok(out.into_inner())
}

fn list(image: Vec<u8>) -> Listing {
    list_image(&Image::open(image).expect("opens"), &[]).expect("readable")
}

#[test]
fn every_dialect_of_gnu_tar_makes_the_tree_that_was_packed() {
    let tree = tempdir();
    corpus::make(tree.path());
    sparse_file(&tree.path().join("holes"), 3_000_000, &[(1_000_000, b"middle"), (2_999_999, b"!")]);
    fs::write(tree.path().join("n".repeat(255)), b"a long name").expect("can write");
    let host = list_host(tree.path());
    let packed = ImageOptions { compressors: vec!["lz4".parse().expect("known")], ..ImageOptions::default() };
    for dialect in [
        &["--format=pax", "--xattrs", "--xattrs-include=*"][..],
        &["--format=pax", "--xattrs", "--xattrs-include=*", "--sparse"],
        &["--format=pax", "--xattrs", "--xattrs-include=*", "--sparse", "--sparse-version=0.1"],
        &["--format=pax", "--xattrs", "--xattrs-include=*", "--sparse", "--sparse-version=0.0"],
        &["--format=gnu"],
        &["--format=gnu", "--sparse"],
    ] {
        let Some(archive) = pack(tree.path(), dialect) else { return };
        let mut expected = host.clone();
        if dialect.contains(&"--format=gnu") {
            expected.values_mut().for_each(|object| {
                object.xattrs.clear();
                object.mtime.nanoseconds = 0;
            });
        }
        for options in [&ImageOptions::default(), &packed] {
            let image = from_tar(&archive, &TarOptions::default(), options);
            let image = image.unwrap_or_else(|error| panic!("{dialect:?}: {error}"));
            assert_same(&list(image), &expected);
        }
    }
}

/// Image and blob of an archive, or of a directory.
fn parts(written: larder_erofs::writer::WrittenData) -> Vec<u8> {
    let mut meta = Vec::new();
    written.write_metadata(&vec![DeviceTag::EMPTY; written.devices().len()], &mut meta).expect("writable");
    meta
}

#[test]
fn data_of_an_archive_in_a_blob_of_their_own_are_those_of_its_files() {
    let tree = tempdir();
    corpus::make(tree.path());
    let holes = [(70_000, &b"middle"[..]), (5_000_000, b"late")];
    sparse_file(&tree.path().join("holes"), 9_000_001, &holes);
    sparse_file(&tree.path().join("nothing but a hole"), 200_000, &[]);
    fs::write(tree.path().join("long"), corpus::noise(7, 3_300_000)).expect("can write");
    let host = list_host(tree.path());
    let unpacked = {
        let mut blob = Vec::new();
        let mut scanned = Tree::new();
        let scan = ScanOptions::default();
        scanned.add_root_from(tree.path(), b"", &scan, &mut |_| true).expect("readable");
        let written = write_data(scanned, &Options::default(), &mut blob).expect("writable");
        parts(written);
        blob.len()
    };
    for sparse in [&[][..], &["--sparse"]] {
        let dialect = [&["--format=pax", "--xattrs", "--xattrs-include=*"][..], sparse].concat();
        let Some(archive) = pack(tree.path(), &dialect) else { return };
        let mut before: Option<(Vec<u8>, Vec<u8>)> = None;
        for jobs in [1, 3] {
            let options = Options { jobs: jobs.try_into().expect("not zero"), ..Options::default() };
            let mut blob = Vec::new();
            let written = write_data_from_tar(&archive[..], &TarOptions::default(), &options, &mut blob);
            let meta = parts(written.expect("writable"));
            let image = Image::open(meta.clone()).expect("opens");
            assert_same(&list_image(&image, &[&blob]).expect("readable"), &host);
            assert_eq!(blob.len(), unpacked, "neither holes nor contents twice");
            let these = (meta, blob);
            assert!(
                before.as_ref().is_none_or(|before| *before == these),
                "the same with any number of threads"
            );
            before = Some(these);
        }
    }
}

#[test]
fn an_index_shows_the_archive_as_its_device_or_appended() {
    let (tree, out, at) = (tempdir(), tempdir(), tempdir());
    corpus::make(tree.path());
    let Some(archive) = pack(tree.path(), &["--format=pax", "--xattrs", "--xattrs-include=*"]) else {
        return;
    };
    let data = index_tar(&archive[..], &TarOptions::default(), &ImageOptions::default()).expect("indexable");
    let mut meta = Vec::new();
    data.write_metadata(&[DeviceTag::EMPTY], &mut meta).expect("writable");
    let expected = list_host(tree.path());
    let image = Image::open(meta.clone()).expect("opens");
    assert_same(&list_image(&image, &[&archive]).expect("readable"), &expected);
    let whole = [meta.clone(), archive.clone()].concat();
    let flat = Image::open_with(whole.clone(), DeviceMode::Flat).expect("opens");
    assert_same(&list_image(&flat, &[]).expect("readable"), &expected);
    if !Mounted::is_possible() {
        return;
    }
    let paths = ["meta", "archive", "whole"].map(|name| out.path().join(name));
    for (path, bytes) in paths.iter().zip([&meta, &archive, &whole]) {
        fs::write(path, bytes).expect("can write");
    }
    for devices in [&[paths[1].as_path()][..], &[]] {
        let image = if devices.is_empty() { &paths[2] } else { &paths[0] };
        let mounted = Mounted::new(image, devices, at.path()).expect("mounts");
        assert_same(&list_host(mounted.path()), &expected);
    }
}

#[test]
fn whiteouts_of_a_layer_become_those_of_overlayfs() {
    let tree = tempdir();
    let path = |name: &str| tree.path().join(name);
    fs::create_dir_all(path("opaque/below")).expect("can make");
    for name in [".wh.gone", "opaque/.wh..wh..opq", "opaque/below/.wh.one", ".wh..wh.plnk", "stays"] {
        fs::write(path(name), b"").expect("can write");
    }
    let Some(archive) = pack(tree.path(), &["--format=pax"]) else { return };
    let tar = TarOptions { aufs: true, ..TarOptions::default() };
    let listing = list(from_tar(&archive, &tar, &ImageOptions::default()).expect("writable"));
    let names: Vec<_> = listing.keys().map(|name| String::from_utf8_lossy(name)).collect();
    assert_eq!(names, ["", "gone", "opaque", "opaque/below", "opaque/below/one", "stays"]);
    for name in ["gone", "opaque/below/one"] {
        let object = &listing[name.as_bytes()];
        assert_eq!((object.kind, object.rdev), (FileType::CharDevice, Rdev::default()), "{name}");
    }
    let opaque = &listing[b"opaque".as_slice()].xattrs;
    assert_eq!(opaque.len(), 1);
    assert_eq!(
        (opaque[0].name.as_slice(), opaque[0].value.as_slice()),
        (&b"trusted.overlay.opaque"[..], &b"y"[..])
    );
    let strip = TarOptions { aufs: true, strip_overlay: true, ..TarOptions::default() };
    let listing = list(from_tar(&archive, &strip, &ImageOptions::default()).expect("writable"));
    assert!(!listing.contains_key(b"gone".as_slice()) && listing[b"opaque".as_slice()].xattrs.is_empty());
}

#[test]
fn what_comes_later_under_a_name_counts() {
    let mut archive = header("a/b", b'0', 3, "");
    archive.extend(b"old");
    archive.resize(1024, 0);
    archive.extend(header("c", b'1', 0, "a/b"));
    archive.extend(header("a/b", b'2', 0, "elsewhere"));
    archive.extend(header("d/e", b'5', 0, ""));
    archive.extend(header("d", b'0', 0, ""));
    let listing =
        list(from_tar(&archive, &TarOptions::default(), &ImageOptions::default()).expect("writable"));
    assert_eq!(listing[b"a/b".as_slice()].data, b"elsewhere");
    assert_eq!((listing[b"c".as_slice()].data.as_slice(), listing[b"c".as_slice()].nlink), (&b"old"[..], 1));
    assert_eq!((listing[b"d".as_slice()].kind, listing.len()), (FileType::Regular, 5));
}

#[test]
fn what_leads_out_of_the_tree_or_to_nothing_is_refused() {
    let verdict = |archive: &[u8]| from_tar(archive, &TarOptions::default(), &ImageOptions::default());
    assert!(matches!(verdict(&header("../a", b'0', 0, "")), Err(Error::BadPath { .. })));
    assert!(matches!(verdict(&header("a", b'1', 0, "../b")), Err(Error::BadPath { .. })));
    assert!(matches!(verdict(&header("a", b'1', 0, "b")), Err(Error::Missing { .. })));
    assert!(matches!(verdict(&header("a", b'0', 5, "")), Err(Error::Tar { .. })), "contents are missing");
    assert!(
        matches!(verdict(&header("a", b'x', 1 << 30, "")), Err(Error::Tar { .. })),
        "a gigabyte of records"
    );
    assert!(matches!(verdict(&header("a", b'Q', 0, "")), Err(Error::Tar { .. })));
    let mut damaged = header("a", b'0', 0, "");
    damaged[0] = b'b';
    assert!(matches!(verdict(&damaged), Err(Error::Tar { .. })));
    let through = [header("link", b'2', 0, "/etc"), header("link/passwd", b'0', 0, "")].concat();
    assert!(matches!(verdict(&through), Err(Error::Exists { .. })), "never through a link");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_archive_is_an_error_or_an_image(at in 0_usize..4096, byte in any::<u8>(), fix in any::<bool>()) {
        let mut archive = header("x", b'x', 53, "");
        archive.extend(b"30 GNU.sparse.map=0,5,100,200\n23 GNU.sparse.size=300\n");
        archive.resize(1024, 0);
        archive.extend(header("a", b'0', 205, ""));
        archive.resize(2048, 1);
        archive.extend(header("b", b'L', 10, ""));
        archive.resize(3072, 0);
        archive.extend(header("c", b'S', 0, ""));
        archive.resize(4096, 0);
        archive[at] = byte;
        if fix {
            mend(&mut archive);
        }
        if let Ok(image) = from_tar(&archive, &TarOptions::default(), &ImageOptions::default()) {
            list(image);
        }
        let _ = index_tar(&archive[..], &TarOptions::default(), &ImageOptions::default());
    }
}

/// Whatever number of threads finds the end.
#[test]
fn p6_what_lies_behind_the_end_of_an_archive_is_no_part_of_it() {
    let file = |name: &str, bytes: &[u8]| {
        let mut padded = bytes.to_vec();
        padded.resize(bytes.len().next_multiple_of(512), 0);
        [header(name, b'0', bytes.len() as u64, ""), padded].concat()
    };
    let first = [file("first", &[7; 300_000]), vec![0; 1024]].concat();
    let second: Vec<u8> = (0..40).flat_map(|n| file(&format!("second-{n}"), &[9; 200_000])).collect();
    let both = [&first[..], &second, &[0; 1024]].concat();
    for jobs in [1, 2, 8] {
        let options = ImageOptions {
            jobs: std::num::NonZero::new(jobs).expect("some"),
            compressors: vec!["lz4".parse().expect("known")],
            ..ImageOptions::default()
        };
        let expected = from_tar(&first, &TarOptions::default(), &options).expect("sound");
        let made = from_tar(&both, &TarOptions::default(), &options).expect("sound");
        assert!(made == expected, "{jobs} jobs");
    }
}

#[test]
fn p5_holes_cost_an_archive_nothing_and_are_limited() {
    let lz4 = ImageOptions { compressors: vec!["lz4".parse().expect("known")], ..ImageOptions::default() };
    let tar = TarOptions::default();
    let verdicts = |archive: &[u8]| {
        let blob = write_data_from_tar(archive, &tar, &Options::default(), &mut Vec::new());
        [
            ("plain", from_tar(archive, &tar, &ImageOptions::default()).map(drop)),
            ("lz4", from_tar(archive, &tar, &lz4).map(drop)),
            ("index", index_tar(archive, &tar, &lz4).map(drop)),
            ("blob", blob.map(drop)),
        ]
    };
    for (way, verdict) in verdicts(&claims("small", 1 << 26)) {
        verdict.unwrap_or_else(|error| panic!("{way}: {error}"));
    }
    for (way, verdict) in verdicts(&claims("huge", 1 << 62)) {
        let error = verdict.expect_err(way);
        assert!(
            matches!(&error, Error::SparseClaims { entries_max: 0x40_0000..0x40_1000, .. }),
            "{way}: {error}"
        );
        assert!(error.to_string().contains("huge"), "{way}: {error}");
    }
    // Each by itself would do.
    let several: Vec<u8> = (0..5).flat_map(|n| claims(&format!("part {n}"), 1 << 32)).collect();
    let error = from_tar(&several, &tar, &ImageOptions::default()).expect_err("20 GiB of holes");
    assert!(error.to_string().contains("part 4"), "{error}");
}

/// A disk of `size` bytes that has data at its end only, as the one file of an archive.
fn disk(size: u64, data: &[u8]) -> Vec<u8> {
    let map = format!("{},{}", size - data.len() as u64, data.len());
    let map = [("GNU.sparse.size", size.to_string()), ("GNU.sparse.map", map)];
    let map = map.each_ref().map(|(key, value)| (*key, value.as_str()));
    [records(b'x', &map), header("disk.raw", b'0', data.len() as u64, ""), data.to_vec(), vec![0; 1024]]
        .concat()
}

#[test]
fn the_data_of_a_sparse_file_count_towards_its_own_holes() {
    let archive = disk(18 << 30, &[7; 32 << 20]);
    let lz4 = ImageOptions { compressors: vec!["lz4".parse().expect("known")], ..ImageOptions::default() };
    let tar = TarOptions::default();
    from_tar(&archive, &tar, &ImageOptions::default()).expect("plain");
    from_tar(&archive, &tar, &lz4).expect("compressed");
    index_tar(&archive[..], &tar, &lz4).expect("over the archive");
    write_data_from_tar(&archive[..], &tar, &Options::default(), &mut Vec::new()).expect("over a blob");
}

#[test]
fn p5_the_table_of_a_large_sparse_file_is_short() {
    let (size, data) = (1_u64 << 40, [b"data".as_slice(), &[7; 5 * 512 - 4]].concat());
    let image = from_tar(&disk(size, &data), &TarOptions::default(), &ImageOptions::default());
    let image = image.expect("its table has 2^20 entries");
    assert!(image.len() < 12 << 20, "{} bytes", image.len());
    let image = Image::open(image).expect("opens");
    let nid = image.resolve(b"disk.raw").expect("readable").expect("is there");
    let inode = image.inode(nid).expect("sound");
    let (mut end, at) = ([1; 6 * 512], LogicalAddr::new(size - 6 * 512));
    image.read_exact_at(&inode, at, &mut end, &mut |_, _, _| unreachable!("no devices")).expect("readable");
    assert_eq!(end, [&[0; 512], &data[..]].concat()[..]);
}

#[test]
fn p5_records_of_an_entry_are_limited_together() {
    let file = header("file", b'0', 0, "");
    let value = "v".repeat(600_000);
    for kind in [b'x', b'g'] {
        let one = records(kind, &[("SCHILY.xattr.nfs4.one", &value)]);
        let two = records(kind, &[("SCHILY.xattr.nfs4.two", &value)]);
        let apart = [&one[..], &file, &records(b'x', &[]), &header("other", b'0', 0, "")].concat();
        from_tar(&apart, &TarOptions::default(), &ImageOptions::default()).expect("below the limit");
        let error =
            from_tar(&[one, two, file.clone()].concat(), &TarOptions::default(), &ImageOptions::default());
        let error = error.expect_err("above the limit").to_string();
        assert!(error.contains("1048576 bytes"), "{error}");
    }
}

/// Names with the kinds of their objects, and whether they are marked as opaque directories.
fn marks(entries: &[(&str, u8)], tar: &TarOptions<'_>) -> Vec<(String, FileType, bool)> {
    let archive: Vec<u8> = entries.iter().flat_map(|&(name, kind)| header(name, kind, 0, "")).collect();
    let listing = list(from_tar(&archive, tar, &ImageOptions::default()).expect("writable"));
    let named = listing.into_iter().filter(|(name, _)| !name.is_empty());
    named
        .map(|(name, object)| {
            let opaque = object.xattrs.iter().any(|xattr| xattr.name == b"trusted.overlay.opaque");
            (String::from_utf8(name).expect("text"), object.kind, opaque)
        })
        .collect()
}

#[test]
fn a_whiteout_hides_lower_layers_only_in_whatever_order_it_stands() {
    let aufs = TarOptions { aufs: true, ..TarOptions::default() };
    let (dir, file, device) = (FileType::Directory, FileType::Regular, FileType::CharDevice);
    for (entries, expected) in [
        (
            &[(".wh.d", b'0'), ("d", b'5'), ("d/new", b'0')][..],
            &[("d", dir, true), ("d/new", file, false)][..],
        ),
        (&[("d", b'5'), ("d/new", b'0'), (".wh.d", b'0')], &[("d", dir, true), ("d/new", file, false)]),
        (&[(".wh.d", b'0'), ("d/new", b'0')], &[("d", dir, true), ("d/new", file, false)]),
        (&[(".wh.f", b'0'), ("f", b'0')], &[("f", file, false)]),
        (&[("f", b'0'), (".wh.f", b'0')], &[("f", file, false)]),
        (&[("a/.wh.b", b'0')], &[("a", dir, false), ("a/b", device, false)]),
        (&[("a/.wh.b", b'0'), ("a/.wh..wh..opq", b'0'), ("a", b'0')], &[("a", file, false)]),
    ] {
        let expected: Vec<_> =
            expected.iter().map(|&(name, kind, opaque)| (name.to_owned(), kind, opaque)).collect();
        assert_eq!(marks(entries, &aufs), expected, "{entries:?}");
    }
    let strip = TarOptions { strip_overlay: true, ..aufs };
    let stripped = marks(&[(".wh.d", b'0'), ("d", b'5'), (".wh.gone", b'0')], &strip);
    assert_eq!(stripped, [("d".to_owned(), dir, false)]);
}

#[test]
fn empty_files_that_are_whiteouts_are_left_out_with_the_other_marks() {
    let whiteout = records(b'x', &[("SCHILY.xattr.trusted.overlay.whiteout", "")]);
    // An empty value takes back what was said before, but for attributes, which may be empty.
    let archive = [whiteout, header("gone", b'0', 0, ""), header("stays", b'0', 0, "")].concat();
    for (strip_overlay, expected) in [(false, &["", "gone", "stays"][..]), (true, &["", "stays"])] {
        let tar = TarOptions { strip_overlay, ..TarOptions::default() };
        let listing = list(from_tar(&archive, &tar, &ImageOptions::default()).expect("writable"));
        let names: Vec<_> = listing.keys().map(|name| String::from_utf8_lossy(name)).collect();
        assert_eq!(names, expected);
    }
}
