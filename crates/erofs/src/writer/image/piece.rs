//! [`Load`]: what goes through the pipeline together: pieces of files, their bytes and what was made of them.

use std::ops::Range;

use xxhash_rust::xxh3::xxh3_128;

use super::super::dedup::ChunkKey;
use super::super::plan::grown_chunk;
use super::super::reader::HostNode;
use super::room::Room;
use crate::BlockSize;

/// A file longer than this is encoded in pieces of this many bytes, each by itself.
///
/// A piece costs half a block and a beginning without history, so it is long; every thread holds a few of them.
pub(in crate::writer) const PIECE_BYTES: u64 = 4 << 20;
/// Bytes of small files that go together, about.
pub(in crate::writer) const LOAD_BYTES: u64 = 1 << 20;
/// Pieces that go together, at most.
pub(in crate::writer) const LOAD_PIECES: usize = 512;

/// Pieces of files with their bytes.
#[derive(Debug, Default)]
pub(in crate::writer) struct Load {
    /// Contents: each piece begins at a block boundary and is padded with zeros.
    pub buffer: Vec<u8>,
    pub pieces: Vec<Piece>,
    /// The file of each piece, where the tree still grows.
    pub apart: Vec<HostNode>,
    /// What was made of each piece.
    pub made: Vec<Made>,
    pub extents: Vec<Extent>,
    /// Encoded bytes.
    pub out: Room,
    /// Sum over the contents.
    pub hash: u128,
    /// Where the buffer has zeros that stand for all holes, if any had to be encoded.
    zeros_at: Option<usize>,
}

/// A piece of a file, not longer than [`PIECE_BYTES`].
#[derive(Clone, Copy, Debug)]
pub(in crate::writer) struct Piece {
    /// Index into the list of files with data.
    pub file: u32,
    /// Where it begins in the file: a multiple of [`PIECE_BYTES`].
    pub start: u64,
    pub len: usize,
    /// Where its bytes begin in the buffer.
    pub offset: usize,
    /// Whether the file ends with it.
    pub last: bool,
    /// Known to be zeros; its bytes need not be read.
    pub hole: bool,
    /// Where the file stays as it is, holes begin and end at multiples of it.
    pub hole_bytes: usize,
    pub method: Method,
}

/// Where the holes of a file of `size` bytes that stays as it is begin and end: its table has an entry for each.
pub(in crate::writer) fn hole_bytes(size: u64, block: BlockSize) -> usize {
    let bytes = grown_chunk(size, block.bytes()).min(PIECE_BYTES);
    usize::try_from(bytes).expect("a piece is small")
}

/// How a file is to be stored.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::writer) struct Method {
    /// Index into the compressors; `None` leaves the bytes as they are.
    pub compressor: Option<u8>,
    /// Encoded bytes of a pcluster, at most.
    pub pcluster_bytes: u32,
}

/// A run of a file's bytes, as it will be stored.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::writer) struct Extent {
    /// Decoded bytes.
    pub len: u32,
    /// Bytes in the image, among the encoded ones of the load; 0 for zeros.
    pub encoded: u32,
    pub kind: Kind,
    /// What it holds, if extents that hold the same are to be stored once.
    pub key: Option<ChunkKey>,
    /// How far a plain one is rotated in its block: one that holds the same, but rotated otherwise, is another.
    pub rotated: u16,
}

/// How an extent is stored.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::writer) enum Kind {
    /// As it is.
    Plain,
    /// By the file's codec.
    Encoded,
    /// Zeros: nowhere.
    Zeros,
}

/// What was made of a piece.
#[derive(Clone, Debug)]
pub(in crate::writer) struct Made {
    /// Its extents. Those of a piece that stays as it is have their bytes in the buffer.
    pub extents: Range<usize>,
    /// Its encoded bytes: those of the extents, one after the other.
    pub out: Range<usize>,
    pub flat: bool,
    pub tail: Option<Tail>,
}

/// The end of a file that is stored apart.
#[derive(Clone, Debug)]
pub(in crate::writer) struct Tail {
    /// Decoded bytes.
    pub len: u32,
    pub kind: TailKind,
}

/// Where the end of a file goes.
#[derive(Clone, Debug)]
pub(in crate::writer) enum TailKind {
    /// Behind the inode, encoded or plain: these bytes of `out`.
    Inline { bytes: Range<usize>, kind: Kind },
    /// Into the packed inode: the last bytes of the piece, which have this key.
    Fragment { key: ChunkKey },
}

impl Load {
    /// Room for `len` bytes at `offset` of the buffer.
    pub(in crate::writer) fn room(&mut self, offset: usize, len: usize, block: BlockSize) -> &mut [u8] {
        let padded = (offset + len).next_multiple_of(block.buffer_len());
        if self.buffer.len() < padded {
            self.buffer.resize(padded, 0);
        }
        &mut self.buffer[offset..offset + len]
    }

    /// Where the buffer has `len` zeros, behind all contents: the same ones for every hole of the load.
    pub(in crate::writer) fn zeros(&mut self, len: usize) -> usize {
        let at = *self.zeros_at.get_or_insert(self.buffer.len());
        self.buffer.resize(self.buffer.len().max(at + len), 0);
        at
    }

    /// Pads every piece to a whole block, and sums the contents up.
    pub(in crate::writer) fn finish(&mut self, block: BlockSize) {
        let mut used = 0;
        for piece in self.pieces.iter().filter(|piece| !piece.hole) {
            let end = piece.offset + piece.len;
            used = end.next_multiple_of(block.buffer_len());
            self.buffer[end..used].fill(0);
        }
        self.hash = xxh3_128(&self.buffer[..used]);
    }

    /// Makes it empty; memory stays.
    pub(in crate::writer) fn clear(&mut self) {
        if let Some(zeros_at) = self.zeros_at.take() {
            self.buffer.truncate(zeros_at);
        }
        self.pieces.clear();
        self.apart.clear();
        self.made.clear();
        self.extents.clear();
        self.out.truncate(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p5_all_holes_of_a_load_are_the_same_zeros_and_leave_with_it() {
        let mut load = Load::default();
        load.room(0, 5000, BlockSize::B4096).fill(1);
        let contents = load.buffer.len();
        for len in [4096, 8192, 100] {
            let at = load.zeros(len);
            assert!(at >= 5000 && load.buffer[at..at + len].iter().all(|&byte| byte == 0), "{len}");
        }
        assert_eq!(load.buffer.len(), contents + 8192);
        load.clear();
        assert_eq!(load.buffer.len(), contents);
    }
}
