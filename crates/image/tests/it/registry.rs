//! Images in a registry: how many round trips they take, and what comes of a registry that misbehaves.

use larder_image::build::Compression;
use larder_image::{Error, LoadedImage, RegistryRepository, Repository as _, Version, load};
use larder_remote::{HttpClient, Policy};
use larder_testkit::{Fault, Registry};

use crate::common::{blob_path, build_sample, load_from, read_layer, tag};

struct Served {
    dir: tempfile::TempDir,
    registry: Registry,
}

impl Served {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        build_sample(&dir.path().join("image"), Compression::Zstd(1));
        let registry = Registry::layout_from_dir(dir.path().join("image"));
        Self { dir, registry }
    }

    fn repository(&self) -> RegistryRepository {
        let policy = Policy { attempts: 1, ..Policy::default() };
        let client = HttpClient::new(policy).expect("a client");
        let registry =
            larder_remote::Registry::new(client, &self.registry.host(), "tools/python").expect("a name");
        RegistryRepository::new(registry)
    }

    async fn load(&self) -> Result<LoadedImage, Error> {
        load(&self.repository(), &tag("v1")).await
    }
}

#[tokio::test]
async fn an_image_of_a_registry_is_the_one_of_its_layout() {
    let served = Served::new();
    let local = load_from(&served.dir.path().join("image"), "v1").await.expect("it loads");
    let image = served.load().await.expect("it loads");
    assert_eq!(image.manifest_digest, local.manifest_digest);
    for (layer, local) in image.layers().zip(local.layers()) {
        assert!(read_layer(layer).await.expect("good") == read_layer(local).await.expect("good"));
    }
    let by_digest = load(&served.repository(), &Version::Digest(local.manifest_digest.clone())).await;
    assert_eq!(by_digest.expect("it loads").manifest_digest, local.manifest_digest);
}

#[tokio::test]
async fn loading_makes_one_request_for_each_document() {
    let served = Served::new();
    served.load().await.expect("it loads");
    assert_eq!(served.registry.requests(), 4, "manifest, configuration and two indexes");
}

#[tokio::test]
async fn a_registry_that_flips_a_bit_is_found_out_wherever_it_does() {
    let served = Served::new();
    let image = served.load().await.expect("it loads");
    let blob = image.devices[0].descriptor.digest().clone();
    let size = image.devices[0].descriptor.size();
    served.registry.fail(Fault::FlipBit { blob: blob.to_string(), offset: size - 1 });
    let error = served.load().await.expect_err("the index is damaged");
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
    served.registry.clear_faults();
    served.registry.fail(Fault::FlipBit { blob: blob.to_string(), offset: 9 });
    let image = served.load().await.expect("the index is good");
    let error = read_layer(&image.devices[0]).await.expect_err("chunk 0 is damaged");
    assert!(matches!(error, Error::Chunk { chunk: 0, .. }), "{error}");
    served.registry.clear_faults();
    read_layer(&image.devices[0]).await.expect("honest again");
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let served = Served::new();
    let error = load(&served.repository(), &tag("v9")).await.expect_err("no such tag");
    assert!(error.to_string().contains("v9"), "{error}");
    assert!(error.hint().is_some());
    for fault in [Fault::Status(404), Fault::Status(500), Fault::CloseEarly { after: 10 }] {
        served.registry.fail(fault.clone());
        let error = served.load().await.expect_err("the registry misbehaves");
        assert!(matches!(error, Error::Remote { .. }), "{fault:?}: {error}");
        served.registry.clear_faults();
    }
    served.load().await.expect("honest again");
}

#[tokio::test]
async fn a_blob_of_another_image_under_the_right_name_is_found_out() {
    let served = Served::new();
    let image = served.load().await.expect("it loads");
    let repository = served.repository();
    let source = repository.blob(&image.metadata.descriptor).await.expect("a name");
    let other =
        std::fs::read(blob_path(&served.dir.path().join("image"), image.devices[0].descriptor.digest()));
    let other = other.expect("there");
    let chunk = image.metadata.table.chunk(0);
    let len = usize::try_from(chunk.stored.len()).expect("small");
    assert!(chunk.verify(other[..len].to_vec().into()).is_err());
    assert!(chunk.verify(source.read_range(chunk.stored).await.expect("there")).is_ok());
}
