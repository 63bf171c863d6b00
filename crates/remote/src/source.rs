//! [`RangeSource`]: one blob on the far side.

use async_trait::async_trait;
use bytes::Bytes;

use crate::{BlobRange, Error, Meter};

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

    /// Where the blob lies: sources of one origin are likely to fail together. What it is called, unless the source knows
    /// better.
    fn origin(&self) -> String {
        self.describe()
    }

    /// Reads exactly `range`; an empty range gives no bytes and makes no request.
    ///
    /// # Errors
    ///
    /// Any [`Error`]; [`Error::is_transient`] tells whether the next read may succeed.
    async fn read_range(&self, range: BlobRange) -> Result<Bytes, Error>;

    /// Reads exactly `range` and hands its bytes to `sink` in order, as they arrive.
    ///
    /// What `sink` was given before an error stays good: a source that tries again goes on where it stopped. The one
    /// given here hands everything over at the end.
    ///
    /// # Errors
    ///
    /// As for [`RangeSource::read_range`].
    async fn read_stream(&self, range: BlobRange, sink: &mut (dyn FnMut(Bytes) + Send)) -> Result<(), Error> {
        let bytes = self.read_range(range).await?;
        if !bytes.is_empty() {
            sink(bytes);
        }
        Ok(())
    }

    /// Finds out where the bytes lie, for a source that was made without: [`here`](Self::here) may have an answer only then.
    ///
    /// # Errors
    ///
    /// As for [`RangeSource::read_range`].
    async fn find(&self) -> Result<(), Error> {
        Ok(())
    }

    /// The same source for callers that may block, where its bytes lie on this machine.
    fn here(&self) -> Option<&dyn ReadHere> {
        None
    }

    /// What was asked of the far side so far, where the source keeps count.
    fn meter(&self) -> Option<&Meter> {
        None
    }
}

/// A source whose bytes lie on this machine: reading them waits for a disk at most, never for somebody else.
pub trait ReadHere: Send + Sync {
    /// The number of the file system that the bytes lie in, `st_dev`: when it hangs, so do all reads of it.
    fn file_system(&self) -> u64;

    /// Reads exactly `range` on the calling thread, into the memory of `buffer`, which grows when it is too small. What
    /// was in it is lost. Calls `came` each time that some bytes have come, 128 KiB or so: where it is not called, the file system
    /// hangs.
    ///
    /// # Errors
    ///
    /// As for [`RangeSource::read_range`].
    fn read_here(&self, range: BlobRange, buffer: Vec<u8>, came: &dyn Fn()) -> Result<Bytes, Error>;
}
