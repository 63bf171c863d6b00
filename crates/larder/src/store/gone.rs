//! [`Gone`]: a repository that is not there any more. What is cached of its images is served without it.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use larder_image::{Descriptor, Error, Repository, Version};
use larder_remote::{BlobRange, RangeSource};

/// A repository that is not there any more, and why.
pub struct Gone {
    reason: Arc<str>,
}

struct GoneBlob {
    reason: Arc<str>,
    len: u64,
    name: String,
}

impl Gone {
    /// Every read will fail with this reason.
    pub fn new(reason: String) -> Self {
        Self { reason: reason.into() }
    }
}

fn error(place: &str, reason: &str) -> larder_remote::Error {
    larder_remote::Error::Io {
        place: place.to_owned(),
        source: io::Error::new(io::ErrorKind::NotFound, reason),
    }
}

#[async_trait]
impl Repository for Gone {
    async fn manifest(&self, version: &Version) -> Result<Bytes, Error> {
        let place = format!("manifest {version}");
        Err(Error::Remote { source: Box::new(error(&place, &self.reason)), place })
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Arc<dyn RangeSource>, Error> {
        let (reason, name) = (Arc::clone(&self.reason), format!("blob {}", descriptor.digest()));
        Ok(Arc::new(GoneBlob { reason, len: descriptor.size(), name }))
    }

    fn describe(&self) -> String {
        "a place that is gone".to_owned()
    }
}

#[async_trait]
impl RangeSource for GoneBlob {
    fn len(&self) -> u64 {
        self.len
    }

    fn describe(&self) -> String {
        self.name.clone()
    }

    async fn read_range(&self, _: BlobRange) -> Result<Bytes, larder_remote::Error> {
        Err(error(&self.name, &self.reason))
    }
}
