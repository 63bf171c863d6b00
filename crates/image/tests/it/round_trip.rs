//! What is built can be loaded, and every byte of it read back.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use larder_erofs::{ExtentKind, Image, LogicalAddr};
use larder_fscache::{AuxData, Cache, CacheResources, ObjectSpec, VolumeKey, memory::Memory};
use larder_image::build::{BuildOptions, Compression, build};
use larder_image::chunk::{ChunkHash, Encoding};
use larder_image::{
    Descriptor, Error, LayoutRepository, LoadedImage, Repository, Version, digest, fetch_metadata, load,
    restore,
};
use larder_remote::{BlobRange, RangeSource};

use crate::common::{self, build_sample, files, load_from, options, read_layer, tree_of};

const BOTH: [Compression; 2] = [Compression::None, Compression::Zstd(3)];

/// The contents of all files of an image, read as a file system client reads them.
async fn contents(image: &LoadedImage) -> BTreeMap<String, Vec<u8>> {
    let erofs = Image::open(read_layer(&image.metadata).await.expect("good chunks")).expect("an EROFS image");
    image.check_devices(&erofs).expect("the devices of the manifest");
    let mut devices = Vec::new();
    for layer in &image.devices {
        devices.push(read_layer(layer).await.expect("good chunks"));
    }
    let mut contents = BTreeMap::new();
    for (path, expected) in files() {
        let nid = erofs.resolve(path.as_bytes()).expect("readable").expect("the file is there");
        let inode = erofs.inode(nid).expect("readable");
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < inode.size {
            let extent = erofs.map(&inode, LogicalAddr::new(bytes.len() as u64)).expect("mapped");
            let len = usize::try_from(extent.len).expect("a small file");
            match extent.kind {
                ExtentKind::Device { device, pa } => {
                    let at = usize::try_from(pa.get()).expect("a small blob");
                    let blob = &devices[device.slot().expect("an extra device")];
                    bytes.extend_from_slice(&blob[at..at + len]);
                }
                other => panic!("{path}: {other:?}"),
            }
        }
        assert_eq!(bytes.len(), expected.len(), "{path}");
        contents.insert(path, bytes);
    }
    contents
}

#[tokio::test]
async fn every_file_reads_back_as_it_was() {
    for compression in BOTH {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let out = dir.path().join("image");
        let report = build_sample(&out, compression);
        let image = load_from(&out, "v1").await.expect("it loads");
        assert_eq!(image.manifest_digest, report.manifest_digest);
        assert!(contents(&image).await == files().into_iter().collect(), "{compression:?}");
        assert!(report.deduplicated_bytes >= 1_400_000, "{report:?}");
    }
}

/// An index with BLAKE3 has a media type that other readers do not know, and so take for none.
#[tokio::test]
async fn every_file_reads_back_with_every_chunk_digest() {
    for chunk_hash in [ChunkHash::Sha256, ChunkHash::Sha512, ChunkHash::Blake3] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let out = dir.path().join("image");
        build(tree_of(&files()), &BuildOptions { chunk_hash, ..options(Compression::Zstd(3), 2) }, &out)
            .expect("it builds");
        let image = load_from(&out, "v1").await.expect("it loads");
        assert!(contents(&image).await == files().into_iter().collect(), "{chunk_hash}");
        let own_type =
            (chunk_hash == ChunkHash::Blake3).then_some("application/vnd.larder.chunk-index.blake3.v1");
        for layer in image.devices.iter().chain([&image.metadata]) {
            assert_eq!(layer.table.index().hash(), chunk_hash);
            let annotations = layer.descriptor.annotations().as_ref().expect("there are some");
            assert_eq!(annotations.get("org.erofs.chunk-index.mediaType").map(String::as_str), own_type);
        }
    }
}

#[tokio::test]
async fn the_manifest_says_what_the_specification_asks_of_a_producer() {
    for compression in BOTH {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let out = dir.path().join("image");
        build_sample(&out, compression);
        let image = load_from(&out, "v1").await.expect("it loads");
        let json = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).expect("JSON");
        let (manifest, config) = (json(&image.manifest), json(&image.config));
        let annotation = |layer: usize, key: &str| manifest["layers"][layer]["annotations"][key].as_str();
        assert_eq!(config["os.features"], serde_json::json!(["erofs"]));
        assert_eq!(annotation(0, "org.erofs.role"), Some("device"));
        assert_eq!(annotation(1, "org.erofs.role"), None);
        for (n, layer) in [(0, &image.devices[0]), (1, &image.metadata)] {
            let blob = std::fs::read(common::blob_path(&out, layer.descriptor.digest())).expect("the blob");
            let decoded = read_layer(layer).await.expect("good chunks");
            let diff_id = config["rootfs"]["diff_ids"][n].as_str().map(str::to_owned);
            match compression {
                Compression::None => {
                    assert_eq!(layer.table.chunk(0).encoding, Encoding::Raw);
                    assert!(blob.starts_with(&decoded), "a raw layer can be mounted as it is");
                    assert_eq!(diff_id, Some(digest::sha256(&blob).to_string()));
                }
                Compression::Zstd(_) => {
                    assert!(zstd::decode_all(&blob[..]).expect("plain zstd") == decoded);
                    assert_eq!(diff_id, Some(digest::sha256(&decoded).to_string()));
                    assert_eq!(annotation(n, "org.erofs.uncompressed-digest").map(str::to_owned), diff_id);
                }
            }
        }
    }
}

#[test]
fn p6_the_image_is_the_same_for_any_number_of_threads() {
    for compression in [Compression::None, Compression::Zstd(3), Compression::Zstd(-1)] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let digest = |jobs| {
            let out = dir.path().join(format!("jobs-{jobs}"));
            build(tree_of(&files()), &options(compression, jobs), &out).expect("it builds").manifest_digest
        };
        let one = digest(1);
        assert_eq!([one.clone(), one], [digest(2), digest(7)], "{compression:?}");
    }
}

#[test]
fn p6_a_timestamp_dates_the_image() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let options = BuildOptions { timestamp: Some(1_700_000_000), ..options(Compression::Zstd(1), 1) };
    let out = dir.path().join("image");
    build(tree_of(&files()), &options, &out).expect("it builds");
    let image = futures_block(load_from(&out, "v1")).expect("it loads");
    let config: serde_json::Value = serde_json::from_slice(&image.config).expect("JSON");
    assert_eq!(config["created"], "2023-11-14T22:13:20Z");
}

fn futures_block<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(work)
}

#[tokio::test]
async fn chunks_have_the_size_asked_for() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for chunk_bytes in [4096, 64 << 10, 3 * 4096, 4 << 20] {
        let out = dir.path().join(chunk_bytes.to_string());
        let chunk_bytes = NonZero::new(chunk_bytes).expect("not 0");
        let options = BuildOptions { chunk_bytes, ..options(Compression::Zstd(1), 2) };
        build(tree_of(&files()), &options, &out).expect("it builds");
        let image = load_from(&out, "v1").await.expect("it loads");
        let table = &image.devices[0].table;
        let full = table.chunks().take(table.len() as usize - 1);
        assert!(full.into_iter().all(|chunk| chunk.decoded.len() == u64::from(chunk_bytes.get())));
        assert!(contents(&image).await == files().into_iter().collect(), "{chunk_bytes}");
    }
}

fn resources(image: &LoadedImage) -> CacheResources {
    let volume = VolumeKey::new("test").expect("a key");
    let table = &image.metadata.table;
    let volume = Cache::new(Memory::new()).acquire_volume(&volume, &AuxData::default()).expect("memory");
    volume.open(table.identity(), &ObjectSpec::of_size(table.decoded_size())).expect("memory")
}

#[tokio::test]
async fn metadata_comes_in_one_request_and_only_once() {
    for compression in BOTH {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let out = dir.path().join("image");
        build_sample(&out, compression);
        let image = load_from(&out, "v1").await.expect("it loads");
        let resources = resources(&image);
        for _ in 0..2 {
            fetch_metadata(&image.metadata, &resources).await.expect("it is there");
            assert!(resources.is_complete());
            assert_eq!(image.metadata.source.meter().expect("files count").read().requests, 1);
        }
        let mut bytes = vec![0; usize::try_from(resources.size()).expect("small")];
        resources.read(0, &mut bytes, larder_fscache::OnHole::Fail).expect("complete");
        assert!(bytes == read_layer(&image.metadata).await.expect("good chunks"));
    }
}

#[tokio::test]
async fn an_image_is_restored_without_asking_its_repository() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (out, kept) = (dir.path().join("image"), dir.path().join("kept"));
    build_sample(&out, Compression::Zstd(3));
    let repository = LayoutRepository::open(&out).expect("a layout");
    let image = load_from(&out, "v1").await.expect("it loads");
    image.persist(&kept).expect("a temporary directory is writable");
    image.persist(&kept).expect("twice does no harm");
    std::fs::remove_file(out.join("index.json")).expect("it was there");
    let restored = restore(&kept, &image.manifest_digest, &repository).await.expect("all is kept");
    assert_eq!(restored.manifest_digest, image.manifest_digest);
    assert_eq!(restored.image_bytes, image.image_bytes);
    assert!(contents(&restored).await == files().into_iter().collect());

    let index = digest::sha256(image.devices[0].table.index().payload());
    common::edit(&kept.join("sha256").join(index.digest()), |bytes| bytes[100] ^= 1);
    let error = restore(&kept, &image.manifest_digest, &repository).await.expect_err("damaged");
    assert!(matches!(error, larder_image::Error::DigestMismatch { .. }), "{error}");
}

/// A repository whose blobs answer only when `waiting` reads are under way at once.
struct Gated {
    inner: LayoutRepository,
    gate: Arc<tokio::sync::Barrier>,
}

struct GatedSource {
    inner: Arc<dyn RangeSource>,
    gate: Arc<tokio::sync::Barrier>,
}

#[async_trait::async_trait]
impl Repository for Gated {
    async fn manifest(&self, version: &Version) -> Result<Bytes, Error> {
        self.inner.manifest(version).await
    }

    async fn blob(&self, descriptor: &Descriptor) -> Result<Arc<dyn RangeSource>, Error> {
        Ok(Arc::new(GatedSource { inner: self.inner.blob(descriptor).await?, gate: Arc::clone(&self.gate) }))
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

#[async_trait::async_trait]
impl RangeSource for GatedSource {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }

    async fn read_range(&self, range: BlobRange) -> Result<Bytes, larder_remote::Error> {
        self.gate.wait().await;
        self.inner.read_range(range).await
    }
}

#[tokio::test]
async fn loading_takes_two_round_trips() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let out = dir.path().join("image");
    build_sample(&out, Compression::Zstd(1));
    // The configuration and the indexes of two layers: none is answered before all are asked for.
    let inner = LayoutRepository::open(&out).expect("a layout");
    let repository = Gated { inner, gate: Arc::new(tokio::sync::Barrier::new(3)) };
    let (repository, version) = (&repository, common::tag("v1"));
    let loaded = tokio::time::timeout(Duration::from_secs(60), load(repository, &version)).await;
    loaded.expect("the three reads are side by side").expect("it loads");
}
