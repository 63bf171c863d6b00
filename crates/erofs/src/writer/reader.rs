//! A reader thread's work: fill a buffer with the segments of a batch, cut it into chunks and hash them.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use super::dedup::{ChunkKey, is_zero};
use super::host::stat_fd;
use super::node::{Content, HostFile, Node, NodeId};
use super::options::Geometry;
use super::plan::Segment;
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
}

/// Reads the segments of `batch` into its buffer.
pub(super) fn read(
    tree: &Tree,
    files: &[NodeId],
    geometry: Geometry,
    batch: &mut Batch,
) -> Result<(), Error> {
    let Batch { buffer, chunks, segments } = batch;
    chunks.clear();
    let mut offset = 0;
    for segment in segments.iter() {
        let node = &tree.nodes[index(files[index(segment.file)])];
        let len = usize::try_from(segment.len).map_err(|_| Error::TooLarge { what: "a larger machine" })?;
        let end = (offset + len).next_multiple_of(geometry.block.buffer_len());
        if buffer.len() < end {
            buffer.resize(end, 0);
        }
        let bytes = &mut buffer[offset..end];
        read_at(tree, node, segment.start, &mut bytes[..len])?;
        bytes[len..].fill(0);
        cut(&bytes[..len], segment, offset, geometry, chunks);
        offset = end;
    }
    Ok(())
}

/// Fills `buf` from byte `start` of a file.
pub(super) fn read_at(tree: &Tree, node: &Node, start: u64, buf: &mut [u8]) -> Result<(), Error> {
    match node.content {
        Content::Host(host) => read_host(tree, node, host, start, buf),
        Content::Literal(literal) => {
            let start = usize::try_from(start).expect("contents held in memory are shorter");
            buf.copy_from_slice(&tree.literals[index(literal)][start..start + buf.len()]);
            Ok(())
        }
        _ => unreachable!("only regular files have data"),
    }
}

/// Reads a piece of a file, and makes sure that it is still the file that was scanned.
fn read_host(tree: &Tree, node: &Node, host: HostFile, start: u64, buf: &mut [u8]) -> Result<(), Error> {
    let name = tree.text.get(host.name);
    let path = || tree.host.path(&tree.text, host.dir, name);
    let failed = |source: io::Error| Error::Scan { path: path(), source };
    let file = tree.host.open_file(&tree.text, host.dir, name).map_err(|errno| failed(errno.into()))?;
    let file = File::from(file);
    match file.read_exact_at(buf, start) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(Error::Changed { path: path() });
        }
        Err(error) => return Err(failed(error)),
    }
    // After the read: what was written before it is in the bytes, what comes later in no image.
    let stat = stat_fd(file.as_fd()).map_err(|errno| failed(errno.into()))?;
    let mtime = Timestamp::new(stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec);
    if stat.stx_ino != host.ino || stat.stx_size != node.size || mtime != node.mtime() {
        return Err(Error::Changed { path: path() });
    }
    Ok(())
}

fn cut(bytes: &[u8], segment: &Segment, offset: usize, geometry: Geometry, chunks: &mut Vec<Chunk>) {
    let unit = 1 << geometry.chunk_bits;
    let mut at = segment.start;
    for (number, chunk) in bytes.chunks(unit).enumerate() {
        let content = if segment.whole {
            ChunkContent::Whole(ChunkKey::of(chunk))
        } else if is_zero(chunk) {
            ChunkContent::Zeros
        } else {
            ChunkContent::Shared(ChunkKey::of(chunk))
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
