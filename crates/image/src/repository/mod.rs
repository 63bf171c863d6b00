//! [`Repository`]: a place that has images.

mod layout;
mod registry;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use larder_remote::RangeSource;
use oci_spec::image::Descriptor;

use crate::{Error, Version};

pub use layout::LayoutRepository;
pub use registry::RegistryRepository;

pub(crate) use layout::{blob_path, read_bounded, read_index};

/// A place that has images: documents by name, blobs by range.
///
/// Nothing it gives is verified; whoever holds the digest does that.
#[async_trait]
pub trait Repository: Send + Sync {
    /// Fetches the manifest or index document called `version`, of at most
    /// [`DOCUMENT_BYTES_MAX`](crate::manifest::DOCUMENT_BYTES_MAX) bytes.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchImage`] where the place can tell, [`Error::Remote`] or [`Error::Io`] when it cannot be had.
    async fn manifest(&self, version: &Version) -> Result<Bytes, Error>;

    /// Returns the blob that `descriptor` describes. Makes no request; may wait until a local file is open.
    ///
    /// # Errors
    ///
    /// [`Error::Remote`] when it cannot be opened, [`Error::DigestKind`] when its digest is no SHA-256.
    async fn blob(&self, descriptor: &Descriptor) -> Result<Arc<dyn RangeSource>, Error>;

    /// What the place is called in messages.
    fn describe(&self) -> String;
}
