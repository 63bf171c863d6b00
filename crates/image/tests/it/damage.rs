//! Every damage gives its own error, and nothing damaged is handed out.

use std::fs;
use std::path::Path;

use larder_image::build::Compression;
use larder_image::chunk::ChunkFault;
use larder_image::{Digest, Error, LayoutRepository, Version, load};

use crate::common::{self, blob_path, build_sample, edit, load_from, read_layer};

struct Sample {
    dir: tempfile::TempDir,
    manifest: Digest,
}

impl Sample {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let manifest = build_sample(&dir.path().join("image"), Compression::Zstd(3)).manifest_digest;
        Self { dir, manifest }
    }

    fn out(&self) -> std::path::PathBuf {
        self.dir.path().join("image")
    }

    fn manifest_json(&self) -> serde_json::Value {
        serde_json::from_slice(&fs::read(blob_path(&self.out(), &self.manifest)).expect("there"))
            .expect("JSON")
    }

    fn layer(&self, n: usize) -> std::path::PathBuf {
        let digest = self.manifest_json()["layers"][n]["digest"].as_str().expect("a digest").parse();
        blob_path(&self.out(), &digest.expect("a digest"))
    }

    /// Puts a changed manifest under the tag, with digests that match.
    fn replace_manifest(&self, change: impl FnOnce(&mut serde_json::Value)) {
        let mut manifest = self.manifest_json();
        change(&mut manifest);
        let bytes = serde_json::to_vec(&manifest).expect("JSON");
        let digest = larder_image::digest::sha256(&bytes);
        fs::write(blob_path(&self.out(), &digest), &bytes).expect("writable");
        edit(&self.out().join("index.json"), |index| {
            let mut json: serde_json::Value = serde_json::from_slice(index).expect("JSON");
            json["manifests"][0]["digest"] = digest.to_string().into();
            *index = serde_json::to_vec(&json).expect("JSON");
        });
    }

    async fn load_error(&self) -> Error {
        let error = load_from(&self.out(), "v1").await.expect_err("the damage is found");
        assert!(error.to_string().len() > 10, "{error}");
        error
    }
}

fn flip(path: &Path, at: usize) {
    edit(path, |bytes| bytes[at] ^= 0x10);
}

fn cut(path: &Path) {
    edit(path, |bytes| bytes.truncate(bytes.len() - 1));
}

#[tokio::test]
async fn a_manifest_with_any_bit_flipped_or_cut_short_is_refused() {
    let sample = Sample::new();
    let path = blob_path(&sample.out(), &sample.manifest);
    let len = fs::metadata(&path).expect("there").len();
    for at in (0..usize::try_from(len).expect("small")).step_by(13) {
        flip(&path, at);
        assert!(matches!(sample.load_error().await, Error::DigestMismatch { .. }), "byte {at}");
        flip(&path, at);
    }
    cut(&path);
    assert!(matches!(sample.load_error().await, Error::DigestMismatch { .. }));
    fs::remove_file(&path).expect("there");
    assert!(matches!(sample.load_error().await, Error::Io { .. }));
}

#[tokio::test]
async fn a_damaged_configuration_is_refused() {
    let sample = Sample::new();
    let digest: Digest =
        sample.manifest_json()["config"]["digest"].as_str().expect("text").parse().expect("a digest");
    let path = blob_path(&sample.out(), &digest);
    flip(&path, 5);
    assert!(matches!(sample.load_error().await, Error::DigestMismatch { .. }));
    flip(&path, 5);
    cut(&path);
    assert!(matches!(sample.load_error().await, Error::Remote { .. }));
}

#[tokio::test]
async fn a_damaged_chunk_index_is_refused() {
    for layer in [0, 1] {
        let sample = Sample::new();
        let path = sample.layer(layer);
        let last = usize::try_from(fs::metadata(&path).expect("there").len()).expect("small") - 1;
        flip(&path, last);
        assert!(matches!(sample.load_error().await, Error::DigestMismatch { .. }), "layer {layer}");
        flip(&path, last);
        cut(&path);
        assert!(matches!(sample.load_error().await, Error::Remote { .. }), "layer {layer}");
    }
}

#[tokio::test]
async fn the_frame_around_an_index_must_be_one() {
    let sample = Sample::new();
    let range = sample.manifest_json()["layers"][0]["annotations"]["org.erofs.chunk-index.range"].clone();
    let start: usize =
        range.as_str().expect("text").split(':').next().expect("a number").parse().expect("a number");
    flip(&sample.layer(0), start + 1);
    assert!(matches!(sample.load_error().await, Error::Index { .. }));
}

#[tokio::test]
async fn a_flipped_bit_in_any_chunk_is_found_before_it_is_decoded() {
    let sample = Sample::new();
    for n in [0, 1] {
        let path = sample.layer(n);
        let image = load_from(&sample.out(), "v1").await.expect("it loads");
        let layer = if n == 0 { &image.devices[0] } else { &image.metadata };
        for chunk in [0, layer.table.len() / 2, layer.table.len() - 1] {
            let at = usize::try_from(layer.table.chunk(chunk).stored.end()).expect("small") - 1;
            flip(&path, at);
            match read_layer(layer).await.expect_err("the damage is found") {
                Error::Chunk { chunk: found, fault: ChunkFault::Digest, .. } => assert_eq!(found, chunk),
                other => panic!("{other}"),
            }
            flip(&path, at);
        }
        read_layer(layer).await.expect("once the bytes are right again they are read");
    }
}

#[tokio::test]
async fn metadata_with_a_flipped_bit_is_not_kept() {
    use larder_fscache::{AuxData, Cache, ObjectSpec, VolumeKey, memory::Memory};
    let sample = Sample::new();
    let image = load_from(&sample.out(), "v1").await.expect("it loads");
    let table = &image.metadata.table;
    let cache = Cache::new(Memory::new());
    let volume = VolumeKey::new("test").expect("a key");
    let volume = cache.acquire_volume(&volume, &AuxData::default()).expect("memory");
    let resources =
        volume.open(table.identity(), &ObjectSpec::of_size(table.decoded_size())).expect("memory");
    flip(&sample.layer(1), 40);
    let error =
        larder_image::fetch_metadata(&image.metadata, &resources).await.expect_err("the damage is found");
    assert!(matches!(error, Error::Chunk { chunk: 0, fault: ChunkFault::Digest, .. }), "{error}");
    assert_eq!(resources.present_bytes(), 0);
    flip(&sample.layer(1), 40);
    larder_image::fetch_metadata(&image.metadata, &resources).await.expect("the next try succeeds");
    assert!(resources.is_complete());
}

#[tokio::test]
async fn a_manifest_that_points_elsewhere_is_refused() {
    let sample = Sample::new();
    let annotation = |key: &'static str, value: &'static str| {
        move |manifest: &mut serde_json::Value| manifest["layers"][0]["annotations"][key] = value.into()
    };
    sample.replace_manifest(annotation("org.erofs.chunk-index.range", "0:99999999999"));
    assert!(matches!(sample.load_error().await, Error::Manifest { .. }));

    let sample = Sample::new();
    sample.replace_manifest(annotation("org.erofs.chunk-index.range", "0:200"));
    assert!(matches!(sample.load_error().await, Error::Index { .. }));

    let sample = Sample::new();
    sample.replace_manifest(|manifest| manifest["layers"][0]["size"] = 5.into());
    assert!(matches!(sample.load_error().await, Error::Manifest { .. }));

    let sample = Sample::new();
    sample.replace_manifest(|manifest| manifest["layers"][0]["mediaType"] = "application/vnd.erofs".into());
    assert!(matches!(sample.load_error().await, Error::DigestMismatch { .. }), "a frame is no raw index");

    let sample = Sample::new();
    sample.replace_manifest(|manifest| manifest["config"]["size"] = (1_u64 << 40).into());
    assert!(matches!(sample.load_error().await, Error::TooLong { .. }));
}

#[tokio::test]
async fn an_image_whose_device_table_names_other_blobs_is_refused() {
    let sample = Sample::new();
    let other = tempfile::tempdir().expect("a temporary directory");
    let files = [("f".to_owned(), common::noise(9, 100_000))];
    let out = other.path().join("image");
    larder_image::build::build(common::tree_of(&files), &common::options(Compression::Zstd(3), 1), &out)
        .expect("built");
    let stranger = load_from(&out, "v1").await.expect("it loads");
    let mut image = load_from(&sample.out(), "v1").await.expect("it loads");
    let erofs = larder_erofs::Image::open(read_layer(&image.metadata).await.expect("good")).expect("EROFS");
    image.check_devices(&erofs).expect("its own devices");
    image.devices = stranger.devices;
    assert!(matches!(image.check_devices(&erofs), Err(Error::Devices { .. })));
    image.devices.clear();
    assert!(matches!(image.check_devices(&erofs), Err(Error::Devices { .. })));
}

#[tokio::test]
async fn a_missing_tag_is_an_error_that_lists_the_tags() {
    let sample = Sample::new();
    let error = load_from(&sample.out(), "v2").await.expect_err("no such tag");
    assert!(error.to_string().ends_with("no image v2; there is v1"), "{error}");
    let repository = LayoutRepository::open(sample.out()).expect("a layout");
    load(&repository, &Version::Only).await.expect("there is one");
    load(&repository, &Version::Digest(sample.manifest.clone())).await.expect("there is one");
    let nothing = Version::Digest(larder_image::digest::sha256(b"nothing"));
    assert!(load(&repository, &nothing).await.is_err());
}

#[test]
fn what_is_no_layout_is_not_opened() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    assert!(matches!(LayoutRepository::open(dir.path()), Err(Error::Io { .. })));
    fs::write(dir.path().join("index.json"), "{").expect("writable");
    assert!(matches!(LayoutRepository::open(dir.path()), Err(Error::Document { .. })));
}
