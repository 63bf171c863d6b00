//! [`Blobs`]: where the data of an image go: one blob for most files, and one for each file that has its own.

use std::collections::BTreeSet;
use std::io;

use larder_erofs::writer::{BlobSink, DataDevice};

use super::destination::{Destination, StagedBlob};
use super::pack::{PackOptions, PackedBlob, Packer};
use crate::Error;

/// What is written, and what has been.
pub(super) struct Blobs<'a> {
    destination: &'a Destination,
    options: PackOptions,
    shared: (StagedBlob, Packer),
    /// The blob of the file at hand.
    own: Option<(StagedBlob, Packer)>,
    /// Those of the files before it.
    finished: Vec<(StagedBlob, PackedBlob)>,
    /// How many were begun.
    begun: usize,
}

/// The blobs of an image, under their names.
pub(super) struct PackedBlobs {
    /// That of most files; there is none when nothing is new.
    pub shared: Option<PackedBlob>,
    /// Those of single files, by number; `None` for what the image does not need.
    pub own: Vec<Option<PackedBlob>>,
}

impl<'a> Blobs<'a> {
    /// Begins the blob of most files.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::Pack`].
    pub fn new(destination: &'a Destination, options: PackOptions) -> Result<Self, Error> {
        let (staged, file) = destination.create_blob("data")?;
        let packer = Packer::new(file, options).map_err(pack_failed)?;
        let shared = (staged, packer);
        Ok(Self { destination, options, shared, own: None, finished: Vec::new(), begun: 0 })
    }

    /// Ends the blobs and gives those among `devices` their names; the others are removed.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::Pack`].
    pub fn finish(self, devices: &[DataDevice]) -> Result<PackedBlobs, Error> {
        let (staged, packer) = self.shared;
        let shared = packer.finish().map_err(pack_failed)?;
        let shared = (shared.index.count() > 0).then_some(shared);
        match &shared {
            Some(blob) => self.destination.add_blob(staged, &blob.digest)?,
            None => self.destination.drop_blob(&staged)?,
        }
        let number = |device: &DataDevice| match device {
            DataDevice::Own { number, .. } => Some(*number),
            DataDevice::Blob { .. } | DataDevice::Dictionary { .. } => None,
        };
        let used: BTreeSet<usize> = devices.iter().filter_map(number).collect();
        let mut own = Vec::with_capacity(self.finished.len());
        for (number, (staged, blob)) in self.finished.into_iter().enumerate() {
            if used.contains(&number) {
                self.destination.add_blob(staged, &blob.digest)?;
                own.push(Some(blob));
            } else {
                self.destination.drop_blob(&staged)?;
                own.push(None);
            }
        }
        Ok(PackedBlobs { shared, own })
    }
}

impl BlobSink for Blobs<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.shared.1.write(data)
    }

    fn write_own(&mut self, data: &[u8]) -> io::Result<()> {
        let (_, packer) = self.own.as_mut().ok_or(io::ErrorKind::Unsupported)?;
        packer.write(data)
    }

    fn begin_own(&mut self) -> io::Result<()> {
        let name = format!("file-{}", self.begun);
        self.begun += 1;
        let (staged, file) = self.destination.create_blob(&name).map_err(io::Error::other)?;
        self.own = Some((staged, Packer::new(file, self.options)?));
        Ok(())
    }

    fn end_own(&mut self, keep: bool) -> io::Result<()> {
        let Some((staged, packer)) = self.own.take() else { return Ok(()) };
        if keep {
            self.finished.push((staged, packer.finish()?));
            return Ok(());
        }
        drop(packer);
        self.destination.drop_blob(&staged).map_err(io::Error::other)
    }
}

fn pack_failed(source: io::Error) -> Error {
    Error::Pack { what: "data", source }
}
