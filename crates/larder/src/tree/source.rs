//! [`Remote`]: one version of one file of a store, as netfs wants it.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use larder_fscache::ObjectRange;
use larder_netfs::{Source, SourceError};
use larder_remote::tree::{FileVersion, TreePath, TreeStore};
use larder_remote::{BlobRange, Error};

/// One version of one file of a store.
pub struct Remote {
    pub store: Arc<dyn TreeStore>,
    pub path: TreePath,
    pub version: FileVersion,
}

#[async_trait]
impl Source for Remote {
    async fn read(
        &self,
        range: ObjectRange,
        sink: &mut (dyn FnMut(Bytes) + Send),
    ) -> Result<(), SourceError> {
        // Nothing is stored other than it is read: the two address spaces are one here.
        let Some(range) = BlobRange::new(range.start(), range.end()) else { return Ok(()) };
        self.store.read(&self.path, range, &self.version, sink).await.map_err(|error| match error {
            Error::Changed { .. } => SourceError::Changed,
            Error::Status { status: 404 | 410, .. } => SourceError::Gone,
            other => SourceError::failed(other),
        })
    }

    fn describe(&self) -> String {
        let store = self.store.describe();
        format!("{}/{}", store.trim_end_matches('/'), self.path)
    }
}

/// The error number that a program gets for an error of the store.
pub fn errno(error: &Error) -> i32 {
    match error {
        Error::Status { status: 404 | 410, .. } => libc::ENOENT,
        Error::Status { status: 401 | 403, .. } => libc::EACCES,
        Error::Changed { .. } => libc::ESTALE,
        Error::Timeout { .. } => libc::ETIMEDOUT,
        _ => libc::EIO,
    }
}
