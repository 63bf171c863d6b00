//! [`Patient`]: a repository of images that are mounted already. What is not there now is looked for again with each read:
//! what is cached is served meanwhile, and a directory that comes back is good again.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use larder_image::{Descriptor, Error, Reference, Repository, Version};
use larder_remote::{BlobRange, HttpClient, RangeSource};
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;

use super::place::connect;

/// A repository that may be away.
#[derive(Clone)]
pub struct Patient(Arc<Whereabouts>);

struct Whereabouts {
    reference: Reference,
    insecure: bool,
    http: HttpClient,
    found: OnceLock<Arc<dyn Repository>>,
}

impl Patient {
    /// The place that `reference` names, whether it is there or not.
    pub fn new(reference: &Reference, insecure: bool, http: &HttpClient) -> Self {
        let (reference, http) = (reference.clone(), http.clone());
        Self(Arc::new(Whereabouts { reference, insecure, http, found: OnceLock::new() }))
    }

    /// The same, for one that was found.
    pub fn found(self, repository: Arc<dyn Repository>) -> Self {
        self.0.found.get_or_init(|| repository);
        self
    }

    /// Looks for the place. Blocks on the file system for a layout.
    fn look(&self) -> anyhow::Result<Arc<dyn Repository>> {
        if let Some(found) = self.0.found.get() {
            return Ok(Arc::clone(found));
        }
        let repository = connect(&self.0.reference, self.0.insecure, &self.0.http)?.repository;
        Ok(Arc::clone(self.0.found.get_or_init(|| repository)))
    }

    fn look_for(&self, descriptor: &Descriptor) -> anyhow::Result<Arc<dyn RangeSource>> {
        Ok(self.look()?.blob(descriptor)?)
    }
}

#[async_trait]
impl Repository for Patient {
    async fn manifest(&self, version: &Version) -> Result<Bytes, Error> {
        let patient = self.clone();
        let place = || format!("{}: manifest {version}", self.describe());
        let looked = spawn_blocking(move || patient.look()).await.map_err(anyhow::Error::from).flatten();
        let found = looked.map_err(|error| {
            let source = Box::new(away(place(), &error));
            Error::Remote { source, place: place() }
        })?;
        found.manifest(version).await
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Arc<dyn RangeSource>, Error> {
        Ok(self.look_for(descriptor).unwrap_or_else(|error| {
            let away =
                AwayBlob { place: self.clone(), descriptor: descriptor.clone(), found: OnceCell::new() };
            tracing::warn!("{}: {error:#}", away.describe());
            Arc::new(away)
        }))
    }

    fn describe(&self) -> String {
        self.0.reference.to_string()
    }
}

/// A blob that was not there when its image was taken up.
struct AwayBlob {
    place: Patient,
    descriptor: Descriptor,
    found: OnceCell<Arc<dyn RangeSource>>,
}

#[async_trait]
impl RangeSource for AwayBlob {
    fn len(&self) -> u64 {
        self.descriptor.size()
    }

    fn describe(&self) -> String {
        format!("{}: blob {}", self.place.describe(), self.descriptor.digest())
    }

    /// The directory: the tags of an image in it are no places of their own.
    fn origin(&self) -> String {
        match &self.place.0.reference {
            Reference::Layout { dir, .. } => dir.display().to_string(),
            Reference::Registry { host, .. } => host.clone(),
        }
    }

    async fn read_range(&self, range: BlobRange) -> Result<Bytes, larder_remote::Error> {
        let look = || async {
            let (place, descriptor) = (self.place.clone(), self.descriptor.clone());
            let looked = spawn_blocking(move || place.look_for(&descriptor)).await;
            looked.map_err(anyhow::Error::from).flatten().map_err(|error| away(self.describe(), &error))
        };
        self.found.get_or_try_init(look).await?.read_range(range).await
    }
}

fn away(place: String, error: &anyhow::Error) -> larder_remote::Error {
    let source = std::io::Error::new(std::io::ErrorKind::NotFound, format!("{error:#}"));
    larder_remote::Error::Io { place, source }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use larder_remote::Policy;

    use super::*;

    #[tokio::test]
    async fn p4_a_layout_and_its_blobs_may_be_away_and_are_read_when_they_are_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let layout = dir.path().join("layout");
        let digest = larder_image::digest::sha256(b"bytes");
        let descriptor = serde_json::json!({
            "mediaType": "application/octet-stream", "digest": digest.as_ref(), "size": 5
        });
        let descriptor: Descriptor = serde_json::from_value(descriptor).expect("a descriptor");
        let reference: Reference = format!("oci:{}", layout.display()).parse().expect("a reference");
        let http = HttpClient::new(Policy::default()).expect("a client");
        let place = super::super::connect_patiently(&reference, false, &http);
        let blob = place.repository.blob(&descriptor).expect("it may be away");
        let whole = BlobRange::new(0, 5).expect("ascending");
        let error = blob.read_range(whole).await.expect_err("nothing is there");
        assert!(error.to_string().contains("layout"), "{error}");

        fs::create_dir_all(layout.join("blobs/sha256")).expect("room");
        fs::write(layout.join("index.json"), r#"{"schemaVersion":2,"manifests":[]}"#).expect("room");
        blob.read_range(whole).await.expect_err("the blob is not there");
        let file = layout.join("blobs/sha256").join(digest.digest());
        fs::write(&file, b"bytes").expect("room");
        assert_eq!(blob.read_range(whole).await.expect("it is back"), &b"bytes"[..]);
    }
}
