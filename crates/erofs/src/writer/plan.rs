//! [`Planner`]: cuts the files into batches of reads, in the order in which they will be written.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsFd;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::node::{Content, HostFile, NodeId};
use super::options::Geometry;
use super::own;
use super::pipeline::Feed;
use super::reader::Batch;
use super::text::index;
use super::tree::Tree;
use crate::Error;

/// Bytes of a batch, at least: large enough that a channel costs nothing, small enough to have several.
const BATCH_BYTES: u64 = 1 << 20;
/// Reads of a batch, at most: small files come by the thousand.
pub(super) const BATCH_SEGMENTS: usize = 256;
/// A table of more entries is avoided: chunks grow with the file beyond it.
const TABLE_ENTRIES_MAX: u64 = 1 << 20;
/// Chunks that grow no further: what surrounds a byte of data is stored with it.
const GROWN_BYTES_MAX: u64 = 64 << 20;

/// A piece of a file that is read in one go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    /// Index into the list of data files.
    pub file: u32,
    /// Where it begins; a multiple of the unit of deduplication.
    pub start: u64,
    pub len: u64,
    pub storage: Storage,
}

/// How a piece of a file is stored.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Storage {
    /// Each content once for all that are equal, zeros nowhere.
    Shared,
    /// Part of a chunk larger than the unit: stored as it is, next to its neighbours.
    Whole,
    /// Zeros and all, in a blob of the file's own; and from byte `tail_at` on as `Whole`, too.
    Own { tail_at: u64 },
}

impl Storage {
    /// How a file is stored whose chunks have `grown`, or not.
    pub(super) fn of(grown: bool) -> Self {
        if grown { Self::Whole } else { Self::Shared }
    }
}

/// Gives out the files' segments, in order.
pub(super) struct Planner<'a> {
    tree: &'a Tree,
    files: &'a [NodeId],
    geometry: Geometry,
    /// Numbers of the files with blobs of their own.
    own: &'a BTreeSet<usize>,
    file: usize,
    at: u64,
    /// The file at hand when it is sparse.
    open: Option<File>,
}

impl Feed<Batch> for Planner<'_> {
    fn next(&mut self, batch: &mut Batch) -> Result<bool, Error> {
        self.fill(&mut batch.segments)?;
        Ok(!batch.segments.is_empty())
    }
}

impl<'a> Planner<'a> {
    pub(super) fn new(
        tree: &'a Tree,
        files: &'a [NodeId],
        geometry: Geometry,
        own: &'a BTreeSet<usize>,
    ) -> Self {
        Self { tree, files, geometry, own, file: 0, at: 0, open: None }
    }

    /// Fills `segments` with the next batch; leaves it empty at the end.
    fn fill(&mut self, segments: &mut Vec<Segment>) -> Result<(), Error> {
        segments.clear();
        let mut room = batch_bytes(self.geometry);
        while segments.len() < BATCH_SEGMENTS && self.file < self.files.len() {
            let size = self.tree.nodes[index(self.files[self.file])].size;
            let data = if self.at < size { self.next_data(size)? } else { None };
            let Some((start, end, storage)) = data else {
                self.file += 1;
                self.at = 0;
                self.open = None;
                continue;
            };
            let most = if end - start > room {
                room / self.geometry.chunk_bytes() * self.geometry.chunk_bytes()
            } else {
                end - start
            };
            if most == 0 {
                break;
            }
            let file =
                u32::try_from(self.file).map_err(|_| Error::TooLarge { what: "more than 2^32 files" })?;
            segments.push(Segment { file, start, len: most, storage });
            self.at = start + most;
            room = room.saturating_sub(most.next_multiple_of(self.geometry.block.bytes()));
        }
        Ok(())
    }

    /// The next range of the file at hand that holds data, rounded to its chunks.
    fn next_data(&mut self, size: u64) -> Result<Option<(u64, u64, Storage)>, Error> {
        if self.own.contains(&self.file) {
            let tail_at = own::tail_at(size, self.geometry);
            return Ok(Some((self.at, size, Storage::Own { tail_at })));
        }
        let grown = grown_chunk(size, self.geometry.chunk_bytes());
        let storage = Storage::of(grown > self.geometry.chunk_bytes());
        let found = match self.tree.nodes[index(self.files[self.file])].content {
            Content::Host(host) if host.sparse => self.seek_data(host, size)?,
            Content::Layer { layer, nid } => self.tree.layers[index(layer)].next_data(nid, self.at)?,
            _ => return Ok(Some((self.at, size, storage))),
        };
        let Some((data, hole)) = found else { return Ok(None) };
        let start = (data / grown * grown).max(self.at);
        let end = hole.checked_next_multiple_of(grown).map_or(size, |end| end.min(size));
        Ok(Some((start, end, storage)))
    }

    /// Asks the file system where the next data begins and ends.
    fn seek_data(&mut self, host: HostFile, size: u64) -> Result<Option<(u64, u64)>, Error> {
        let file = match &self.open {
            Some(file) => file,
            None => self.open.insert(self.tree.host_file(host).open()?),
        };
        next_data(file, self.at, size).map_err(|errno| self.tree.host_file(host).failed(errno.into()))
    }
}

/// Bytes that a buffer must have to take any batch.
pub(super) fn batch_bytes(geometry: Geometry) -> u64 {
    BATCH_BYTES.max(geometry.chunk_bytes())
}

/// Asks the file system where the next data at or after `at` begins and ends; `None` when there is none.
pub(super) fn next_data(file: &File, at: u64, size: u64) -> Result<Option<(u64, u64)>, Errno> {
    let data = match seek(file.as_fd(), SeekFrom::Data(at)) {
        Ok(data) if data < size => data,
        Ok(_) | Err(Errno::NXIO) => return Ok(None),
        // The file system does not know: all of it counts as data.
        Err(Errno::INVAL) => return Ok(Some((at, size))),
        Err(errno) => return Err(errno),
    };
    let hole = seek(file.as_fd(), SeekFrom::Hole(data))?;
    Ok(Some((data, hole.min(size))))
}

/// The chunk of a file of `size` bytes: larger than `unit` where its table would be too long.
pub(super) fn grown_chunk(size: u64, unit: u64) -> u64 {
    let mut chunk = unit;
    while size.div_ceil(chunk) > TABLE_ENTRIES_MAX && chunk < GROWN_BYTES_MAX {
        chunk *= 2;
    }
    chunk
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_grow_so_that_a_table_has_at_most_a_million_entries() {
        let unit = 1 << 16;
        assert_eq!(grown_chunk(1 << 36, unit), unit, "64 GiB make exactly 2^20 chunks");
        assert_eq!(grown_chunk((1 << 36) + 1, unit), 2 * unit);
        assert_eq!(grown_chunk(1 << 40, unit), 1 << 20);
        assert_eq!(grown_chunk(1 << 62, unit), GROWN_BYTES_MAX);
    }
}
