//! A reader thread's work: fill a buffer with the segments of a batch, cut it into chunks and hash them.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use super::dedup::{ChunkKey, is_zero};
use super::host::{HostSource, stat_fd};
use super::node::{Content, HostFile, Node, NodeId};
use super::options::Geometry;
use super::plan::{Segment, Storage};
use super::text::index;
use super::tree::Tree;
use crate::{Error, Timestamp};

/// A batch that was read.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Contents as they will stand in the blob: each segment from a block boundary, padded with zeros.
    pub buffer: Vec<u8>,
    pub chunks: Vec<Chunk>,
    pub segments: Vec<Segment>,
}

/// A chunk in the buffer of its batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    pub file: u32,
    /// Place in the file.
    pub at: u64,
    /// Place in the buffer.
    pub offset: usize,
    pub len: usize,
    pub content: ChunkContent,
}

/// What a chunk holds.
#[derive(Clone, Copy, Debug)]
pub(super) enum ChunkContent {
    /// Nothing but zeros.
    Zeros,
    /// May be stored once for all that are equal.
    Shared(ChunkKey),
    /// To be stored where it is, next to its neighbours in a larger chunk.
    Whole(ChunkKey),
    /// To be stored in the blob that its file has of its own.
    Own(ChunkKey),
    /// There, and where it is besides, next to its neighbours.
    OwnTail(ChunkKey),
}

impl Batch {
    /// Room for a segment at `offset`, which is padded with zeros to whole blocks, and where the next one begins.
    pub(super) fn room(
        &mut self,
        offset: usize,
        segment: &Segment,
        geometry: Geometry,
    ) -> Result<(&mut [u8], usize), Error> {
        let len = usize::try_from(segment.len).map_err(|_| Error::TooLarge { what: "a larger machine" })?;
        let end = (offset + len).next_multiple_of(geometry.block.buffer_len());
        if self.buffer.len() < end {
            self.buffer.resize(end, 0);
        }
        let (bytes, padding) = self.buffer[offset..end].split_at_mut(len);
        padding.fill(0);
        Ok((bytes, end))
    }

    /// Cuts the segments into chunks; their bytes are in the buffer.
    pub(super) fn cut(&mut self, geometry: Geometry) {
        let Self { buffer, chunks, segments } = self;
        chunks.clear();
        let mut offset = 0;
        for segment in segments.iter() {
            let len = usize::try_from(segment.len).expect("it is in memory");
            cut(&buffer[offset..offset + len], segment, offset, geometry, chunks);
            offset = (offset + len).next_multiple_of(geometry.block.buffer_len());
        }
    }
}

/// Reads the segments of `batch` into its buffer, and cuts them into chunks.
pub(super) fn read(
    tree: &Tree,
    files: &[NodeId],
    geometry: Geometry,
    batch: &mut Batch,
) -> Result<(), Error> {
    let mut offset = 0;
    for number in 0..batch.segments.len() {
        let segment = batch.segments[number];
        let node = &tree.nodes[index(files[index(segment.file)])];
        let (bytes, end) = batch.room(offset, &segment, geometry)?;
        read_at(tree, node, segment.start, bytes)?;
        offset = end;
    }
    batch.cut(geometry);
    Ok(())
}

/// Fills `buf` from byte `start` of a file.
pub(super) fn read_at(tree: &Tree, node: &Node, start: u64, buf: &mut [u8]) -> Result<(), Error> {
    match node.content {
        Content::Host(host) => HostNode::new(node, host, tree.host_file(host)).read_at(start, buf),
        Content::Literal(literal) => {
            let start = usize::try_from(start).expect("contents held in memory are shorter");
            buf.copy_from_slice(&tree.literals[index(literal)][start..start + buf.len()]);
            Ok(())
        }
        Content::Layer { layer, nid } => {
            let read = tree.layers[index(layer)].read_nid(nid, start, buf);
            // Which of its files is told by the number.
            read.map_err(|source| Error::Layer {
                number: layer,
                path: "its data".into(),
                source: Box::new(source),
            })
        }
        Content::Joined => read_joined(tree, start, buf),
        _ => unreachable!("only regular files have data"),
    }
}

/// Reads a piece of what several files of layers are together; what lies between them is zeros.
fn read_joined(tree: &Tree, start: u64, buf: &mut [u8]) -> Result<(), Error> {
    let (mut at, mut rest) = (start, buf);
    let first = tree.joined.partition_point(|&(begin, ..)| begin <= start).saturating_sub(1);
    for &(begin, layer, nid) in tree.joined.get(first..).unwrap_or_default() {
        let source = &tree.layers[index(layer)];
        let inode = source.image.inode(nid)?;
        if rest.is_empty() || begin + inode.size <= at {
            continue;
        }
        let gap = usize::try_from(begin.saturating_sub(at)).map_or(rest.len(), |gap| gap.min(rest.len()));
        rest[..gap].fill(0);
        (at, rest) = (at + gap as u64, &mut rest[gap..]);
        let left = begin + inode.size - at;
        let len = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
        let (piece, after) = rest.split_at_mut(len);
        source.read(&inode, at - begin, piece)?;
        (at, rest) = (at + len as u64, after);
    }
    rest.fill(0);
    Ok(())
}

/// A file of the host, and what it must still be when it is read.
#[derive(Debug)]
pub(super) struct HostNode {
    source: HostSource,
    ino: u64,
    size: u64,
    mtime: Timestamp,
}

impl HostNode {
    /// The file `host`, which lies at `source`, and of which `node` was made.
    pub(super) fn new(node: &Node, host: HostFile, source: HostSource) -> Self {
        Self { source, ino: host.ino, size: node.size, mtime: node.mtime() }
    }

    /// Fills `buf` from byte `start`, and makes sure that it is still the file that was scanned.
    pub(super) fn read_at(&self, start: u64, buf: &mut [u8]) -> Result<(), Error> {
        let Self { source, ino, size, mtime } = self;
        let file = source.open()?;
        match file.read_exact_at(buf, start) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(Error::Changed { path: source.path() });
            }
            Err(error) => return Err(source.failed(error)),
        }
        // After the read: what was written before it is in the bytes, what comes later in no image.
        let stat = stat_fd(file.as_fd()).map_err(|errno| source.failed(errno.into()))?;
        let found = Timestamp::new(stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec);
        if stat.stx_ino != *ino || stat.stx_size != *size || found != *mtime {
            return Err(Error::Changed { path: source.path() });
        }
        Ok(())
    }
}

fn cut(bytes: &[u8], segment: &Segment, offset: usize, geometry: Geometry, chunks: &mut Vec<Chunk>) {
    let unit = 1 << geometry.chunk_bits;
    let mut at = segment.start;
    for (number, chunk) in bytes.chunks(unit).enumerate() {
        let content = match segment.storage {
            Storage::Own { tail_at } if at < tail_at => ChunkContent::Own(ChunkKey::of(chunk)),
            Storage::Own { .. } => ChunkContent::OwnTail(ChunkKey::of(chunk)),
            Storage::Whole => ChunkContent::Whole(ChunkKey::of(chunk)),
            Storage::Shared if is_zero(chunk) => ChunkContent::Zeros,
            Storage::Shared => ChunkContent::Shared(ChunkKey::of(chunk)),
        };
        chunks.push(Chunk {
            file: segment.file,
            at,
            offset: offset + number * unit,
            len: chunk.len(),
            content,
        });
        at += chunk.len() as u64;
    }
}
