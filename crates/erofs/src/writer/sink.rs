//! [`BlobSink`]: where the data blob goes.

use std::io::{self, Write};

/// Takes the data blob, in order from offset 0.
pub trait BlobSink: Send {
    /// Takes the next bytes. A slow sink slows the readers down; nothing piles up.
    ///
    /// # Errors
    ///
    /// Whatever keeps the sink from taking them; writing stops then.
    fn write(&mut self, data: &[u8]) -> io::Result<()>;
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
