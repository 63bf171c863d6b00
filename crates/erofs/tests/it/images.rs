//! Images of one piece, with every option that changes the layout: the kernel shows the tree they were made from, our
//! reader too, and Debian's fsck.erofs finds nothing.

use std::fs::File;
use std::io::{BufWriter, Cursor};
use std::num::NonZero;

use larder_erofs::Image;
use larder_erofs::writer::{
    Attributes, DirectoryOptions, Hint, ImageOptions, ScanEntry, Tree, write_image, write_image_from_dir,
};
use larder_erofs_fuzz::corpus;

use crate::support::fsck::{Fsck, Verdict};
use crate::support::kernel::Mounted;
use crate::support::{assert_same, list_host, list_image, recipes, scan, tempdir};

#[test]
fn every_layout_reads_as_its_source_here_and_in_the_kernel_and_passes_fsck() {
    let (tree, out, at) = (tempdir(), tempdir(), tempdir());
    corpus::make(tree.path());
    let host = list_host(tree.path());
    let mounts = Mounted::is_possible();
    let fsck = Fsck::find();
    let only = std::env::var("EROFS_MATRIX").unwrap_or_default();
    let path = out.path().join("image");
    let (mut checked, mut unchecked) = (0, 0);
    for recipe in recipes::RECIPES.iter().filter(|recipe| recipe.contains(&only)) {
        eprintln!("{recipe}");
        let options = recipes::parse(recipe);
        let file = File::create(&path).expect("can make");
        let mut out = BufWriter::new(file);
        let summary = write_image(scan(tree.path()).expect("readable"), &options, &mut out);
        let summary = summary.unwrap_or_else(|error| panic!("{recipe}: {error}"));
        drop(out);
        let len = std::fs::metadata(&path).expect("made").len();
        assert_eq!(len, summary.bytes, "{recipe}");

        let expected = recipes::as_kept(&host, &options);
        let image = Image::open(File::open(&path).expect("made")).unwrap_or_else(|e| panic!("{recipe}: {e}"));
        let listing = list_image(&image, &[]).unwrap_or_else(|error| panic!("{recipe}: {error}"));
        assert_same(&listing, &expected);
        assert!(image.superblock().incompat.contains(recipes::features(recipe)), "{recipe}: not heard");

        if mounts {
            let mounted = Mounted::new(&path, &[], at.path());
            let mounted = mounted.unwrap_or_else(|error| panic!("{recipe}: {error}"));
            assert_same(&list_host(mounted.path()), &expected);
        }
        // fsck.erofs 1.9.4 cannot decode tails that are in a metabox, of images by its own mkfs.erofs either.
        if recipe.starts_with("-m") && recipe.contains("ztailpacking") {
            continue;
        }
        match fsck.as_ref().map(|fsck| fsck.check(&path)) {
            Some(Verdict::Clean) => checked += 1,
            Some(Verdict::TooOld(reason)) => {
                unchecked += 1;
                eprintln!("SKIPPED: {recipe}: {reason}");
            }
            Some(Verdict::Faulty(text)) => panic!("{recipe}: fsck.erofs: {text}"),
            None => {}
        }
    }
    println!("{checked} of {} passed fsck.erofs, {unchecked} are too new for it", checked + unchecked);
}

#[test]
fn p6_the_bytes_do_not_depend_on_the_number_of_threads() {
    let tree = tempdir();
    corpus::make(tree.path());
    for recipe in recipes::RECIPES.iter().step_by(3) {
        let write = |jobs| {
            let options =
                ImageOptions { jobs: NonZero::new(jobs).expect("not zero"), ..recipes::parse(recipe) };
            let mut out = Cursor::new(Vec::new());
            write_image(scan(tree.path()).expect("readable"), &options, &mut out).expect("writable");
            out.into_inner()
        };
        let one = write(1);
        for jobs in [2, 4] {
            assert!(write(jobs) == one, "{recipe}: {jobs} threads, other bytes");
        }
    }
}

/// A directory is scanned while its files are encoded already: it is the image of the tree that was scanned before.
#[test]
fn p6_the_bytes_do_not_depend_on_when_a_directory_is_scanned() {
    let tree = tempdir();
    corpus::make(tree.path());
    // More than are looked at in one go, files of several pieces, and links of which another name is the first.
    for number in 0..100 {
        let name = format!("many/{:02}/file", number / 3);
        std::fs::create_dir_all(tree.path().join(&name).parent().expect("has one")).expect("can make");
        std::fs::write(tree.path().join(format!("many/{number:03}")), vec![1; number]).expect("can write");
        std::fs::write(tree.path().join(&name), vec![2; 5000 + number]).expect("can write");
    }
    for (first, other) in [("many/zz", "many/07/file"), ("b/linked", "c/linked")] {
        let (first, other) = (tree.path().join(first), tree.path().join(other));
        std::fs::create_dir_all(first.parent().expect("has one")).expect("can make");
        std::fs::create_dir_all(other.parent().expect("has one")).expect("can make");
        if !other.exists() {
            std::fs::write(&other, [3; 9000]).expect("can write");
        }
        std::fs::hard_link(other, first).expect("can link");
    }
    std::fs::write(tree.path().join("large"), vec![b'l'; (4 << 20) + 5000]).expect("can write");
    let sparse = File::create(tree.path().join("sparse")).expect("can make");
    std::os::unix::fs::FileExt::write_all_at(&sparse, &[4; 5000], 5 << 20).expect("can write");
    let filter = |entry: &ScanEntry<'_>| !entry.path.ends_with(b"/31");
    let owner = |attributes: Attributes| Attributes { uid: attributes.uid + 7, ..attributes };
    let from =
        DirectoryOptions { filter: Some(&filter), attributes: Some(&owner), ..DirectoryOptions::default() };
    let hints = |path: &[u8]| match path {
        [b'm' | b'b', ..] => Hint { compressor: None, ..Hint::default() },
        _ => Hint::default(),
    };
    for (number, recipe) in recipes::RECIPES.iter().step_by(3).enumerate() {
        let options = |jobs| ImageOptions {
            jobs: NonZero::new(jobs).expect("not zero"),
            hints: (number % 2 == 0).then_some(&hints),
            ..recipes::parse(recipe)
        };
        let mut expected = Cursor::new(Vec::new());
        let mut scanned = Tree::new();
        let report = scanned.add_root_from(tree.path(), b"", &from.scan, &mut |entry| filter(entry));
        assert_eq!(report.expect("readable").filtered, 1);
        scanned.map_attributes(&mut |attributes| owner(attributes));
        write_image(scanned, &options(2), &mut expected).expect("writable");
        for jobs in [1, 2, 4] {
            let mut out = Cursor::new(Vec::new());
            write_image_from_dir(tree.path(), &from, &options(jobs), &mut out).expect("writable");
            assert!(out.get_ref() == expected.get_ref(), "{recipe}: {jobs} threads, other bytes");
        }
    }
}
