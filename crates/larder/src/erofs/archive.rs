//! [`Archive`]: a tar archive to be read from front to back, from a file or standard input.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use anyhow::Context as _;
use larder_erofs::writer::{ArchiveCodec, PeekedArchive, decode_archive, peek_archive};

/// An archive of which nothing but its first bytes has been read.
pub struct Archive {
    /// What to call it.
    pub name: String,
    /// What its first bytes say it is compressed with.
    pub codec: Option<ArchiveCodec>,
    /// Whether there is not a single byte: not even the end of an archive.
    pub empty: bool,
    reader: PeekedArchive<Box<dyn Read + Send>>,
}

impl Archive {
    /// Opens a file; standard input without one.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn open(file: Option<&Path>) -> anyhow::Result<Self> {
        let name = file.map_or_else(|| "standard input".to_owned(), |file| file.display().to_string());
        let named = || format!("{name}: cannot be read");
        let reader: Box<dyn Read + Send> = match file {
            Some(file) => Box::new(File::open(file).with_context(named)?),
            None => Box::new(io::stdin()),
        };
        let (codec, reader) = peek_archive(reader).with_context(named)?;
        let empty = reader.get_ref().0.get_ref().is_empty();
        Ok(Self { name, codec, empty, reader })
    }

    /// Reads it, decoded on the way.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn decode(self) -> anyhow::Result<Box<dyn Read + Send>> {
        decode_archive(self.reader).with_context(|| format!("{}: cannot be read", self.name))
    }
}
