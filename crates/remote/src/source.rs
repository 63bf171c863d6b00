//! [`RangeSource`]: one blob on the far side.

use async_trait::async_trait;
use bytes::Bytes;

use crate::{BlobRange, Error};

/// One blob that can be read by range.
///
/// Implementations retry what is transient within their own deadline, and return exactly the bytes asked for or
/// an error. They do not verify content: whoever knows the digests does.
#[async_trait]
pub trait RangeSource: Send + Sync + 'static {
    /// Length of the stored blob in bytes, as its descriptor states it.
    fn len(&self) -> u64;

    /// Whether the blob has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the blob is called in messages: where it lies and its name there.
    fn describe(&self) -> String;

    /// Reads exactly `range`; an empty range gives no bytes and makes no request.
    ///
    /// # Errors
    ///
    /// Any [`Error`]; [`Error::is_transient`] tells whether the next read may succeed.
    async fn read_range(&self, range: BlobRange) -> Result<Bytes, Error>;
}
