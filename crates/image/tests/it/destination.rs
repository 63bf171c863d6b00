//! Where an image may be built, and what is left when it is not.

use std::fs;
use std::path::Path;

use larder_image::Error;
use larder_image::build::{BuildOptions, Compression, DedupSource, build};

use crate::common::{self, build_sample, files, load_from, noise, options, tree_of};

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a directory");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("readable").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

fn small() -> [(String, Vec<u8>); 1] {
    [("hello".to_owned(), b"hello".to_vec())]
}

#[test]
fn what_is_something_else_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let refused = |out: &Path| {
        let error = build(tree_of(&small()), &options(Compression::None, 1), out).expect_err("refused");
        assert!(matches!(error, Error::Destination { .. }), "{error}");
        assert!(error.hint().is_some());
    };
    let file = dir.path().join("file");
    fs::write(&file, "mine").expect("writable");
    refused(&file);
    let full = dir.path().join("full");
    fs::create_dir(&full).expect("writable");
    fs::write(full.join("index.json"), "mine").expect("writable");
    refused(&full);
    fs::write(full.join("oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).expect("writable");
    refused(&full);
    assert_eq!(names(dir.path()), ["file", "full"]);
    assert_eq!(names(&full), ["index.json", "oci-layout"]);
}

#[test]
fn a_missing_parent_is_an_error() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let out = dir.path().join("none/image");
    let error = build(tree_of(&small()), &options(Compression::None, 1), &out).expect_err("no parent");
    assert!(matches!(error, Error::Io { .. }), "{error}");
}

#[test]
fn an_empty_directory_is_filled_and_keeps_its_inode() {
    use std::os::unix::fs::MetadataExt as _;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let before = fs::metadata(dir.path()).expect("there").ino();
    build_sample(dir.path(), Compression::None);
    assert_eq!(fs::metadata(dir.path()).expect("there").ino(), before);
    assert_eq!(names(dir.path()), ["blobs", "index.json", "oci-layout"]);
}

#[tokio::test]
async fn a_layout_gets_further_tags_and_keeps_the_others() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let out = dir.path().join("image");
    let first = build_sample(&out, Compression::Zstd(1));
    let second = BuildOptions { tag: "v2".to_owned(), ..options(Compression::Zstd(1), 1) };
    let second = build(tree_of(&small()), &second, &out).expect("a second tag");
    assert_eq!(load_from(&out, "v1").await.expect("kept").manifest_digest, first.manifest_digest);
    assert_eq!(load_from(&out, "v2").await.expect("added").manifest_digest, second.manifest_digest);
    let replaced = build(tree_of(&small()), &options(Compression::Zstd(1), 1), &out).expect("replaced");
    assert_eq!(load_from(&out, "v1").await.expect("replaced").manifest_digest, replaced.manifest_digest);
    assert_eq!(second.manifest_digest, replaced.manifest_digest, "the tag is no part of the image");
    assert_eq!(names(dir.path()), ["image"]);
    assert_eq!(names(&out), ["blobs", "index.json", "oci-layout"]);
}

#[test]
fn a_build_that_fails_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let source = dir.path().join("source");
    fs::create_dir(&source).expect("writable");
    fs::write(source.join("a"), noise(1, 5_000_000)).expect("writable");
    fs::write(source.join("b"), "gone before it is read").expect("writable");
    let mut tree = larder_erofs::writer::Tree::new();
    tree.add_root_from(&source, b"", &Default::default(), &mut |_| true).expect("readable");
    fs::remove_file(source.join("b")).expect("there");
    let out = dir.path().join("image");
    let error = build(tree, &options(Compression::Zstd(1), 2), &out).expect_err("a file is gone");
    assert!(matches!(error, Error::Erofs(_)), "{error}");
    assert_eq!(names(dir.path()), ["source"]);
}

#[test]
fn options_that_do_not_exist_are_refused_by_name() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let out = dir.path().join("image");
    let default = || options(Compression::None, 1);
    let chunk =
        |bytes| BuildOptions { chunk_bytes: std::num::NonZero::new(bytes).expect("not 0"), ..default() };
    let level = |level| BuildOptions { compression: Compression::Zstd(level), ..default() };
    for options in [chunk(1), chunk(4097), chunk(32 << 20), level(23), level(0), level(i32::MIN)] {
        let error = build(tree_of(&small()), &options, &out).expect_err("refused");
        assert!(matches!(error, Error::Option { .. }), "{error}");
    }
    let tag = BuildOptions { tag: "a b".to_owned(), ..default() };
    assert!(matches!(build(tree_of(&small()), &tag, &out), Err(Error::Reference { .. })));
    assert!(names(dir.path()).is_empty());
}

#[tokio::test]
async fn an_image_of_nothing_but_names_has_no_devices() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let out = dir.path().join("image");
    let report = build(tree_of(&[("empty".to_owned(), vec![])]), &options(Compression::Zstd(3), 1), &out);
    assert!(report.expect("it builds").data.is_none());
    let image = load_from(&out, "v1").await.expect("it loads");
    assert!(image.devices.is_empty());
}

#[tokio::test]
async fn what_another_image_has_is_referred_to() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (base, out) = (dir.path().join("base"), dir.path().join("image"));
    build_sample(&base, Compression::Zstd(1));
    let mut changed = files();
    changed.push(("new".to_owned(), noise(5, 300_000)));
    let source = DedupSource { dir: base.clone(), version: common::tag("v1") };
    let with_base =
        |compression| BuildOptions { dedup_against: vec![source.clone()], ..options(compression, 2) };
    let report = build(tree_of(&changed), &with_base(Compression::None), &out).expect("it builds");
    assert_eq!(report.devices_shared, 1);
    assert!(report.dictionary_bytes > 3_000_000, "{report:?}");
    assert!(report.data.as_ref().is_some_and(|data| data.decoded_bytes < 400_000), "{report:?}");

    // The new image stands alone: its layout has the blobs of the other one.
    fs::remove_dir_all(&base).expect("there");
    let image = load_from(&out, "v1").await.expect("it loads");
    assert_eq!(image.devices.len(), 2);
    let erofs =
        larder_erofs::Image::open(common::read_layer(&image.metadata).await.expect("good")).expect("EROFS");
    image.check_devices(&erofs).expect("tags in the order of the manifest");
    for device in &image.devices {
        common::read_layer(device).await.expect("good chunks");
    }

    // The same once more, into the layout that has everything already.
    let again = BuildOptions {
        dedup_against: vec![DedupSource { dir: out.clone(), version: common::tag("v1") }],
        tag: "v2".to_owned(),
        ..options(Compression::Zstd(1), 1)
    };
    let report = build(tree_of(&changed), &again, &out).expect("it builds");
    assert!(report.data.is_none(), "{report:?}");
    assert_eq!(report.devices_shared, 2);
    load_from(&out, "v2").await.expect("it loads");
}
