//! [`TarBatches`]: reads an archive for images whose data are blobs of their own.

use std::io::Read;

use super::super::node::NodeId;
use super::super::options::Geometry;
use super::super::own::{self, ArchiveOwn};
use super::super::pipeline::Feed;
use super::super::plan::{BATCH_SEGMENTS, Segment, Storage, batch_bytes, grown_chunk};
use super::super::reader::Batch;
use super::super::tree::Tree;
use super::claims::HoleUnits;
use super::contents::{Contents, TarFiles};
use super::{Adder, Entries};
use crate::Error;

/// Reads an archive and gives out the contents of its files, cut as those of a directory are.
pub(in crate::writer) struct TarBatches<'a, R> {
    files: TarFiles<'a, R>,
    geometry: Geometry,
    own: ArchiveOwn,
    file: Option<Contents>,
    /// Whether that has a blob of its own.
    is_own: bool,
    /// Up to here the file at hand is stored, holes or not: they lie in chunks that hold data too.
    until: u64,
}

impl<'a, R: Read> TarBatches<'a, R> {
    pub(in crate::writer) fn new(
        entries: Entries<R>,
        adder: Adder<'a>,
        geometry: Geometry,
        own: ArchiveOwn,
    ) -> Self {
        let files = TarFiles::new(entries, adder);
        Self { files, geometry, own, file: None, is_own: false, until: 0 }
    }

    /// Reads on to the end of the stream; returns the tree, and its files with data in the order of the archive.
    pub(in crate::writer) fn finish(self) -> Result<(Tree, Vec<NodeId>), Error> {
        self.files.finish()
    }

    /// The next segment, of at most `room` bytes; `None` when there is no room for it, or no further one.
    fn next_segment(&mut self, room: u64) -> Result<Option<Segment>, Error> {
        if self.file.is_none() {
            let unit = self.geometry.chunk_bytes();
            let next = self.files.next(|_, size| {
                let chunk = grown_chunk(size, unit);
                Ok(HoleUnits { read: chunk, table: chunk })
            })?;
            let Some((_, contents)) = next else { return Ok(None) };
            self.is_own = self.own.takes(contents.size, contents.data() != Some(0..contents.size));
            self.file = Some(contents);
            self.until = 0;
        }
        let Some(contents) = &mut self.file else { return Ok(None) };
        let unit = self.geometry.chunk_bytes();
        let grown = grown_chunk(contents.size, unit);
        let mut whole = grown > unit;
        if contents.at >= self.until {
            let data = contents.data();
            // A hole at the end: its last chunk tells where the file ends, and is found to be zeros.
            whole &= data.is_some();
            let (start, end) = data.map_or((contents.size - 1, contents.size), |data| (data.start, data.end));
            let start = (start / grown * grown).max(contents.at);
            self.files.skip_to(contents, start)?;
            self.until =
                end.checked_next_multiple_of(grown).map_or(contents.size, |end| end.min(contents.size));
        }
        let left = self.until - contents.at;
        let len = if left > room { room / unit * unit } else { left };
        if len == 0 {
            return Ok(None);
        }
        let storage = match self.is_own {
            true => Storage::Own { tail_at: own::tail_at(contents.size, self.geometry) },
            false => Storage::of(whole),
        };
        Ok(Some(Segment { file: self.files.number()?, start: contents.at, len, storage }))
    }
}

impl<R: Read + Send> Feed<Batch> for TarBatches<'_, R> {
    fn next(&mut self, batch: &mut Batch) -> Result<bool, Error> {
        batch.segments.clear();
        let mut offset = 0;
        let room = batch_bytes(self.geometry);
        while batch.segments.len() < BATCH_SEGMENTS {
            let Some(segment) = self.next_segment(room.saturating_sub(offset as u64))? else { break };
            let (bytes, end) = batch.room(offset, &segment, self.geometry)?;
            let contents = self.file.as_mut().expect("it has a segment");
            self.files.read(contents, bytes)?;
            if contents.at == contents.size {
                self.file = None;
            }
            batch.segments.push(segment);
            offset = end;
        }
        Ok(!batch.segments.is_empty())
    }
}
