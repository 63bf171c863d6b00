//! [`RegistryRepository`]: a repository of an OCI registry.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use larder_remote::{RangeSource, Registry};
use oci_spec::image::Descriptor;

use super::Repository;
use crate::{Error, Version};

/// A repository of an OCI registry.
#[derive(Clone, Debug)]
pub struct RegistryRepository(Registry);

impl RegistryRepository {
    /// Reads images from `registry`.
    pub fn new(registry: Registry) -> Self {
        Self(registry)
    }
}

#[async_trait]
impl Repository for RegistryRepository {
    async fn manifest(&self, version: &Version) -> Result<Bytes, Error> {
        let name = match version {
            Version::Tag(tag) => tag.clone(),
            Version::Digest(digest) => digest.to_string(),
            Version::Only => "latest".to_owned(),
        };
        let fetched = self.0.manifest(&name).await;
        let fetched = fetched.map_err(|source| Error::remote(format!("manifest {name}"), source))?;
        Ok(fetched.bytes)
    }

    async fn blob(&self, descriptor: &Descriptor) -> Result<Arc<dyn RangeSource>, Error> {
        let digest = descriptor.digest();
        crate::digest::require_sha256(digest, "blob")?;
        Ok(self.0.blob(digest, descriptor.size()))
    }

    fn describe(&self) -> String {
        self.0.describe()
    }
}
