//! Files with blobs of their own: as long as they are, shared by digest, the same with any number of threads.

use std::num::NonZero;

use larder_erofs::writer::{OWN_BLOBS_MAX, TarOptions};
use larder_erofs::{ExtentKind, Image, LogicalAddr};
use larder_image::build::{BuildOptions, BuildReport, Compression, DedupSource, build, build_from_tar};
use larder_image::{Digest, LoadedImage};

use crate::common::{self, files, load_from, noise, options, prose, read_layer, tree_of};

/// The sample without `large/again` has two files of at least this.
const LARGE: u64 = 1_000_000;

fn own(jobs: usize) -> BuildOptions<'static> {
    BuildOptions { own_blob_bytes: NonZero::new(LARGE), ..options(Compression::Zstd(3), jobs) }
}

fn digests(report: &BuildReport) -> Vec<&Digest> {
    report.files.iter().map(|blob| &blob.digest).collect()
}

/// The layer that is all of `path`, and nothing else, with its decoded bytes. What the image reads of it is whole blocks.
async fn blob_of(image: &LoadedImage, path: &str) -> (Digest, Vec<u8>) {
    let erofs = Image::open(read_layer(&image.metadata).await.expect("good chunks")).expect("an EROFS image");
    image.check_devices(&erofs).expect("the devices of the manifest");
    let nid = erofs.resolve(path.as_bytes()).expect("readable").expect("the file is there");
    let inode = erofs.inode(nid).expect("readable");
    let extents: Vec<_> =
        erofs.extents(&inode, LogicalAddr::new(0)).collect::<Result<_, _>>().expect("mapped");
    let ExtentKind::Device { device: own, .. } = extents[0].kind else { panic!("{path}: {extents:?}") };
    let layer = &image.devices[own.slot().expect("an extra device")];
    assert_eq!(layer.table.decoded_size(), inode.size, "{path}");
    assert!(layer.is_one_file());
    let whole = read_layer(layer).await.expect("good chunks");
    for extent in extents {
        let ExtentKind::Device { device, pa } = extent.kind else { panic!("{path}: {extent:?}") };
        let range = |at: u64| {
            let at = usize::try_from(at).expect("a small file");
            at..at + usize::try_from(extent.len).expect("a small file")
        };
        if device == own {
            assert_eq!(pa.get(), extent.start.get(), "{path}");
            assert!((pa.get() + extent.len).is_multiple_of(4096), "{path}: {extent:?}");
        } else {
            assert!(inode.size - extent.start.get() < 65_536, "{path}: a short tail: {extent:?}");
            let shared =
                read_layer(&image.devices[device.slot().expect("another")]).await.expect("good chunks");
            assert!(shared[range(pa.get())] == whole[range(extent.start.get())], "{path}: {extent:?}");
        }
    }
    (layer.descriptor.digest().clone(), whole)
}

#[tokio::test]
async fn p6_a_large_file_is_a_blob_of_its_own_with_any_number_of_threads() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let one = build(tree_of(&files()), &own(1), &dir.path().join("one")).expect("it builds");
    assert_eq!(one.files.len(), 2, "two with the same contents share theirs: {one:?}");
    for jobs in [2, 5] {
        let out = dir.path().join(jobs.to_string());
        let more = build(tree_of(&files()), &own(jobs), &out).expect("it builds");
        assert_eq!(more.manifest_digest, one.manifest_digest, "{jobs} jobs");
    }
    let image = load_from(&dir.path().join("one"), "v1").await.expect("it loads");
    let (noise_blob, bytes) = blob_of(&image, "large/noise").await;
    assert!(bytes == noise(1, 1_500_000));
    assert_eq!(blob_of(&image, "large/again").await.0, noise_blob);
    let (prose_blob, bytes) = blob_of(&image, "large/prose").await;
    assert!(bytes == prose(1, 2_000_001), "no multiple of a block, and not filled up to one");
    assert_eq!(digests(&one), [&noise_blob, &prose_blob]);
    assert!(!image.devices[0].is_one_file(), "that of the small files");
    assert_eq!(one.deduplicated_bytes, 1_500_000 / 65_536 * 65_536, "all but its tail: {one:?}");
}

#[tokio::test]
async fn another_image_with_the_same_file_has_the_same_blob() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let out = dir.path().join("layout");
    let base = build(tree_of(&files()), &own(2), &out).expect("it builds");
    let others = [("model".to_owned(), noise(1, 1_500_000)), ("other".to_owned(), prose(9, 70_000))];
    let dedup = DedupSource { dir: out.clone(), version: common::tag("v1") };
    for (tag, dedup_against) in [("v2", Vec::new()), ("v3", vec![dedup])] {
        let options = BuildOptions { tag: tag.to_owned(), dedup_against, ..own(2) };
        let report = build(tree_of(&others), &options, &out).expect("it builds");
        assert_eq!(digests(&report), [&base.files[0].digest]);
        assert_eq!(report.dictionary_bytes, 0, "{tag}: its own blob is enough");
        let image = load_from(&out, tag).await.expect("it loads");
        assert!(blob_of(&image, "model").await.1 == noise(1, 1_500_000));
    }
}

#[tokio::test]
async fn an_image_of_nothing_but_large_files_has_no_other_blob() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let out = dir.path().join("layout");
    let mut bytes = noise(4, 300 * 4096);
    // Zeros are stored: the blob has to be the whole file.
    bytes[200_000..900_000].fill(0);
    let report = build(tree_of(&[("model".to_owned(), bytes.clone())]), &own(2), &out).expect("it builds");
    assert!(report.data.is_none() && report.files.len() == 1, "{report:?}");
    let image = load_from(&out, "v1").await.expect("it loads");
    assert!(blob_of(&image, "model").await.1 == bytes);
}

/// An archive in the oldest format: name, contents.
fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, bytes) in files {
        let mut header = [0_u8; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..107].copy_from_slice(b"0000644");
        header[108..115].copy_from_slice(b"0000000");
        header[116..123].copy_from_slice(b"0000000");
        header[124..135].copy_from_slice(format!("{:011o}", bytes.len()).as_bytes());
        header[136..147].copy_from_slice(b"00000000000");
        header[156] = b'0';
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        archive.extend_from_slice(&header);
        archive.extend_from_slice(bytes);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

#[tokio::test]
async fn p6_a_large_file_of_an_archive_has_the_blob_that_it_has_in_a_directory() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (large, replaced) = (noise(1, 1_500_000), noise(2, 1_100_000));
    let archive = archive(&[("a", &replaced), ("b", b"small"), ("a", &large), ("c", &large)]);
    let tar = |jobs: usize| {
        let out = dir.path().join(format!("tar-{jobs}"));
        let report =
            build_from_tar(&archive[..], &TarOptions::default(), &own(jobs), &out).expect("it builds");
        let blobs = std::fs::read_dir(out.join("blobs/sha256")).expect("a layout").count();
        assert_eq!(blobs, 5, "manifest, configuration, metadata, small files, and the one large file");
        let left = std::fs::read_dir(&out).expect("a layout").count();
        assert_eq!(left, 3, "blobs, index.json and oci-layout");
        report
    };
    let (one, three) = (tar(1), tar(3));
    assert_eq!(one.manifest_digest, three.manifest_digest);
    let tree = tree_of(&[("a".to_owned(), large.clone()), ("z".to_owned(), prose(5, 100))]);
    let of_tree = build(tree, &own(2), &dir.path().join("dir")).expect("it builds");
    assert_eq!(digests(&one), digests(&of_tree));
    let image = load_from(&dir.path().join("tar-1"), "v1").await.expect("it loads");
    assert!(blob_of(&image, "a").await.1 == large && blob_of(&image, "c").await.1 == large);
}

#[tokio::test]
async fn beyond_the_limit_files_lie_with_the_others() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let size = |n: usize| 66_000 + n;
    let many: Vec<_> =
        (0..OWN_BLOBS_MAX + 3).map(|n| (format!("{n:03}"), prose(n as u64, size(n)))).collect();
    let options = BuildOptions { own_blob_bytes: NonZero::new(65_536), ..own(2) };
    let out = dir.path().join("layout");
    let report = build(tree_of(&many), &options, &out).expect("it builds");
    assert_eq!(report.files.len(), OWN_BLOBS_MAX);
    let smallest = report.files.iter().map(|blob| blob.decoded_bytes).min();
    assert_eq!(smallest, Some(size(3) as u64), "the largest have them");
    let image = load_from(&out, "v1").await.expect("it loads");
    assert_eq!(image.devices.len(), OWN_BLOBS_MAX + 1);
}
