//! [`BlobSink`]: where the data go.

use std::io::{self, Write};

/// Takes the data blob, in order from offset 0, and blobs that single files have of their own.
pub trait BlobSink: Send {
    /// Takes the next bytes. A slow sink slows the readers down; nothing piles up.
    ///
    /// # Errors
    ///
    /// Whatever keeps the sink from taking them; writing stops then.
    fn write(&mut self, data: &[u8]) -> io::Result<()>;

    /// Begins a blob of one file's own. Only called with [`Options::own_blob_bytes`](super::Options::own_blob_bytes).
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write); unless it is implemented there are no such blobs.
    fn begin_own(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Takes the next bytes of the blob that was begun.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    fn write_own(&mut self, _data: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Ends it. One to be kept has the next number, from 0; another is not needed, because one before has the same bytes.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    fn end_own(&mut self, _keep: bool) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl BlobSink for Vec<u8> {
    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.extend_from_slice(data);
        Ok(())
    }
}

/// A [`BlobSink`] that writes to a file or anything else that implements [`Write`].
#[derive(Debug)]
pub struct WriteSink<W>(pub W);

impl<W: Write + Send> BlobSink for WriteSink<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.0.write_all(data)
    }
}
