//! Images of one piece, with every option that changes the layout: the kernel shows the tree they were made from, our
//! reader too, and Debian's fsck.erofs finds nothing.

#[path = "support/corpus.rs"]
mod corpus;
#[path = "support/fsck.rs"]
mod fsck;
#[path = "support/kernel.rs"]
mod kernel;
#[path = "support/recipes.rs"]
mod recipes;
mod support;

use std::fs::File;
use std::io::{BufWriter, Cursor};
use std::num::NonZero;

use fsck::{Fsck, Verdict};
use kernel::Mounted;
use larder_erofs::Image;
use larder_erofs::writer::{ImageOptions, write_image};
use support::{assert_same, list_host, list_image, scan};

#[test]
fn every_layout_reads_as_its_source_here_and_in_the_kernel_and_passes_fsck() {
    let (tree, out, at) = (tempdir(), tempdir(), tempdir());
    corpus::make(tree.path());
    let host = list_host(tree.path());
    let no_mount = Mounted::impossible();
    if let Some(reason) = &no_mount {
        eprintln!("SKIPPED: not compared with the kernel: {reason}");
    }
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

        if no_mount.is_none() {
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

fn tempdir() -> tempfile::TempDir {
    tempfile::tempdir().expect("can make")
}
