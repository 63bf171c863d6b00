//! [`Placer`]: takes what the threads have made, in order, and gives every extent its place in the image.

use std::collections::HashMap;
use std::io::Write;

use sha2::{Digest, Sha256};

use super::super::dedup::ChunkKey;
use super::super::runs::{BlockRef, FileRuns, Target};
use super::encoded::{EncodedFile, StoredExtent, StoredTail};
use super::piece::{Extent, Kind, Load, Made, Piece, TailKind};
use crate::{BlockSize, Codec, Error};

/// Where the contents of a file went.
#[derive(Debug)]
pub(in crate::writer) enum Place {
    /// In one run of blocks, or none, and this behind the inode.
    Flat {
        first: Option<u64>,
        /// Where the blocks are, in the writer's numbering of devices: 0 is the image itself.
        device: u16,
        tail: Box<[u8]>,
    },
    /// Where its runs say.
    Chunks,
    Encoded(EncodedFile),
}

impl Place {
    /// The file, if it is compressed.
    pub(in crate::writer) fn encoded(&self) -> Option<&EncodedFile> {
        match self {
            Self::Encoded(file) => Some(file),
            _ => None,
        }
    }
}

/// A pcluster that later extents may refer to.
#[derive(Clone, Copy, Debug)]
struct Known {
    block: u32,
    blocks: u16,
}

/// What is compressed how, as far as placing is concerned.
pub(super) struct Placing<'a> {
    pub block: BlockSize,
    /// Most bytes of a file's end that may stand behind its inode; 0 for none.
    pub inline_bytes_max: usize,
    pub codecs: &'a [Codec],
    /// By compressor: the pcluster of `zeros_len` zeros.
    pub zeros: &'a [Vec<u8>],
    pub zeros_len: usize,
    pub interlaced: bool,
    pub progress: Option<&'a (dyn Fn(u64) + Sync)>,
}

/// Gives everything its place and writes it.
pub(super) struct Placer<'a> {
    out: &'a mut dyn Write,
    rules: Placing<'a>,
    pub places: Vec<Place>,
    pub runs: FileRuns,
    /// The file at hand, if it is compressed.
    extents: Vec<StoredExtent>,
    /// The end of the file at hand that goes behind its inode.
    tail: Box<[u8]>,
    /// The pcluster of zeros of each compressor.
    zero_blocks: Vec<Option<u32>>,
    known: HashMap<(ChunkKey, u32), Known>,
    /// The contents of the packed inode so far, and where its pieces are.
    pub packed: Vec<u8>,
    fragments: HashMap<ChunkKey, u64>,
    pub content: Sha256,
    pub totals: Totals,
}

/// What became of the bytes of the files.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    /// The first block that nothing has.
    pub next_block: u64,
    pub file_bytes: u64,
    pub deduplicated_bytes: u64,
    /// Any extent refers to a pcluster of another: needs Linux 6.1.
    pub shares: bool,
    /// Any pcluster has several blocks.
    pub big: bool,
}

/// Ways in which bytes are stored, beside the numbers of the codecs: plain extents and chunks.
const PLAIN: u32 = u32::MAX;
const CHUNK: u32 = u32::MAX - 1;

const TOO_LARGE: Error = Error::TooLarge { what: "more than 2^32 blocks" };
/// Entries of a chunk table, at most: it is held in memory.
const TABLE_ENTRIES_MAX: u64 = 1 << 24;

impl<'a> Placer<'a> {
    /// Begins at block `first_block`, to which `out` has been filled.
    pub(super) fn new(out: &'a mut dyn Write, rules: Placing<'a>, first_block: u64) -> Self {
        let zero_blocks = vec![None; rules.codecs.len()];
        Self {
            out,
            rules,
            places: Vec::new(),
            runs: FileRuns::default(),
            extents: Vec::new(),
            tail: Box::default(),
            zero_blocks,
            known: HashMap::new(),
            packed: Vec::new(),
            fragments: HashMap::new(),
            content: Sha256::new(),
            totals: Totals { next_block: first_block, ..Totals::default() },
        }
    }

    pub(super) fn take(&mut self, load: &Load) -> Result<(), Error> {
        self.content.update(load.hash.to_le_bytes());
        for (piece, made) in load.pieces.iter().zip(&load.made) {
            if piece.start == 0 {
                self.runs.begin_file();
            }
            self.totals.file_bytes += piece.len as u64;
            if made.flat {
                self.take_flat(load, piece, made)?;
            } else {
                self.take_encoded(load, piece, made)?;
            }
        }
        if let Some(progress) = self.rules.progress {
            progress(self.totals.file_bytes);
        }
        Ok(())
    }

    fn take_flat(&mut self, load: &Load, piece: &Piece, made: &Made) -> Result<(), Error> {
        let block = self.rules.block;
        let file = self.places.len();
        let extents = &load.extents[made.extents.clone()];
        let is_apart = |extent: &Extent| extent.kind == Kind::Zeros || extent.key.is_some();
        let whole = !extents.iter().any(is_apart) && self.runs.of(file).iter().all(is_data);
        let mut at = piece.offset;
        for extent in extents {
            let len = usize32(extent.len);
            let blocks = block.blocks(len as u64);
            if extent.kind == Kind::Zeros {
                self.runs.push(blocks, Target::Hole, 1);
                at += len;
                continue;
            }
            let key = extent.key.map(|key| (key, CHUNK));
            if let Some(known) = key.and_then(|key| self.known.get(&key)) {
                let target = BlockRef::new(0, known.block.into()).ok_or(TOO_LARGE)?;
                self.runs.push(blocks, Target::Data(target), 1);
                self.totals.deduplicated_bytes += u64::from(extent.len);
                at += len;
                continue;
            }
            let tail = len % block.buffer_len();
            let stays =
                if piece.last && whole && tail > 0 && tail <= self.rules.inline_bytes_max { tail } else { 0 };
            let first = self.totals.next_block;
            let stored = (len - stays).next_multiple_of(block.buffer_len());
            self.write(&load.buffer[at..at + stored])?;
            if let Some(key) = key {
                let block = u32::try_from(first).map_err(|_| TOO_LARGE)?;
                self.known.insert(key, Known { block, blocks: 0 });
            }
            let target = BlockRef::new(0, first).ok_or(TOO_LARGE)?;
            self.runs.push(block.blocks(stored as u64), Target::Data(target), 1);
            if stays > 0 {
                self.tail = load.buffer[at + stored..at + len].into();
            }
            at += len;
        }
        if piece.last {
            let runs = self.runs.of(file);
            let place = match runs {
                [] => Place::Flat { first: None, device: 0, tail: std::mem::take(&mut self.tail) },
                [run] if is_data(run) => {
                    let Target::Data(at) = run.target else { unreachable!("just asked") };
                    Place::Flat { first: Some(at.block()), device: 0, tail: std::mem::take(&mut self.tail) }
                }
                _ => Place::Chunks,
            };
            self.places.push(place);
        }
        Ok(())
    }

    fn take_encoded(&mut self, load: &Load, piece: &Piece, made: &Made) -> Result<(), Error> {
        let compressor = usize::from(piece.method.compressor.expect("only compressed files are encoded"));
        let mut bytes = load.out.get(made.out.clone());
        for extent in &load.extents[made.extents.clone()] {
            let (encoded, rest) = bytes.split_at(usize32(extent.encoded));
            bytes = rest;
            let stored = match extent.kind {
                Kind::Zeros => self.zeros(extent, compressor)?,
                Kind::Plain | Kind::Encoded => self.store(extent, encoded, compressor)?,
            };
            self.totals.big |= stored.blocks > 1;
            self.extents.push(stored);
        }
        if !piece.last {
            return Ok(());
        }
        let tail = match &made.tail {
            None => StoredTail::None,
            Some(tail) => match &tail.kind {
                TailKind::Inline { bytes, kind } => StoredTail::Inline {
                    len: tail.len,
                    kind: *kind,
                    bytes: load.out.get(bytes.clone()).into(),
                },
                TailKind::Fragment { key } => {
                    let end = piece.offset + piece.len;
                    let bytes = &load.buffer[end - usize32(tail.len)..end];
                    StoredTail::Fragment { len: tail.len, offset: self.fragment(*key, bytes) }
                }
            },
        };
        let extents = self.extents.as_slice().to_vec();
        self.extents.clear();
        let codec = self.rules.codecs[compressor];
        let file = EncodedFile { codec, interlaced: self.rules.interlaced, extents, tail };
        self.places.push(match file.as_flat(self.rules.block) {
            Some(first) => Place::Flat { first: Some(first), device: 0, tail: Box::default() },
            None => Place::Encoded(file),
        });
        Ok(())
    }

    /// Takes in a file whose blocks are on devices, and what stands behind them among the metadata.
    pub(super) fn point(&mut self, runs: &[(u64, Target)], tail: &[u8]) -> Result<(), Error> {
        self.runs.begin_file();
        let file = self.places.len();
        for &(blocks, target) in runs {
            self.runs.push(blocks, target, 1);
        }
        if tail.is_empty() {
            self.places.push(Place::Chunks);
            return Ok(());
        }
        let first = match self.runs.of(file) {
            [] => Some((0, None)),
            [run] => match run.target {
                Target::Data(at) => Some((at.device_number(), Some(at.block()))),
                Target::Hole => None,
            },
            _ => None,
        };
        if let Some((device, first)) = first.filter(|_| tail.len() <= self.rules.inline_bytes_max) {
            self.places.push(Place::Flat { first, device, tail: tail.into() });
            return Ok(());
        }
        // A table ends with a block of its own: its chunks are as small as that may ask for.
        let blocks: u64 = self.runs.of(file).iter().map(|run| run.chunks).sum();
        if blocks > TABLE_ENTRIES_MAX {
            return Err(Error::TooLarge { what: "a chunk table of more than 128 MiB" });
        }
        let at = BlockRef::new(0, self.totals.next_block).ok_or(TOO_LARGE)?;
        let mut block = tail.to_vec();
        block.resize(self.rules.block.buffer_len(), 0);
        self.write(&block)?;
        self.runs.push(1, Target::Data(at), 1);
        self.places.push(Place::Chunks);
        Ok(())
    }

    /// Takes in a file whose pclusters are on devices.
    pub(super) fn point_encoded(&mut self, file: EncodedFile) {
        self.runs.begin_file();
        self.places.push(Place::Encoded(file));
    }

    /// Stores an extent, unless one with the same key has been.
    fn store(&mut self, extent: &Extent, encoded: &[u8], compressor: usize) -> Result<StoredExtent, Error> {
        let blocks = u16::try_from(self.rules.block.blocks(encoded.len() as u64)).map_err(|_| TOO_LARGE)?;
        let way = if extent.kind == Kind::Plain {
            PLAIN - u32::from(extent.rotated)
        } else {
            u32::from(self.rules.codecs[compressor].number())
        };
        let key = extent.key.map(|key| (key, way));
        let found = key.and_then(|key| self.known.get(&key)).filter(|known| known.blocks == blocks).copied();
        if let Some(known) = found {
            self.totals.shares = true;
            self.totals.deduplicated_bytes += u64::from(extent.len);
            return Ok(stored(extent, known.block, known.blocks));
        }
        let block = u32::try_from(self.totals.next_block).map_err(|_| TOO_LARGE)?;
        self.write(encoded)?;
        if let Some(key) = key {
            self.known.entry(key).or_insert(Known { block, blocks });
        }
        Ok(stored(extent, block, blocks))
    }

    /// An extent of zeros: a reference to the one pcluster of them.
    fn zeros(&mut self, extent: &Extent, compressor: usize) -> Result<StoredExtent, Error> {
        let block = match self.zero_blocks[compressor] {
            Some(block) => block,
            None => {
                let block = u32::try_from(self.totals.next_block).map_err(|_| TOO_LARGE)?;
                let rules = &self.rules;
                self.totals.next_block += rules.block.blocks(rules.zeros[compressor].len() as u64);
                let failed = |source| Error::WriteImage { source };
                self.out.write_all(&rules.zeros[compressor]).map_err(failed)?;
                self.zero_blocks[compressor] = Some(block);
                block
            }
        };
        self.totals.shares = true;
        let blocks = self.rules.block.blocks(self.rules.zeros[compressor].len() as u64);
        let blocks = u16::try_from(blocks).map_err(|_| TOO_LARGE)?;
        let partial = usize32(extent.len) < self.rules.zeros_len;
        Ok(StoredExtent { partial, ..stored(extent, block, blocks) })
    }

    /// The place of a fragment in the packed inode; equal ones are stored once.
    fn fragment(&mut self, key: ChunkKey, bytes: &[u8]) -> u64 {
        if let Some(&offset) = self.fragments.get(&key) {
            self.totals.deduplicated_bytes += bytes.len() as u64;
            return offset;
        }
        let offset = self.packed.len() as u64;
        self.packed.extend_from_slice(bytes);
        self.fragments.insert(key, offset);
        offset
    }

    /// Writes whole blocks.
    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.totals.next_block += self.rules.block.blocks(bytes.len() as u64);
        self.out.write_all(bytes).map_err(|source| Error::WriteImage { source })
    }
}

fn stored(extent: &Extent, block: u32, blocks: u16) -> StoredExtent {
    StoredExtent {
        len: extent.len,
        block: block.into(),
        device: 0,
        blocks,
        kind: extent.kind,
        partial: false,
    }
}

fn is_data(run: &super::super::runs::Run) -> bool {
    matches!(run.target, Target::Data(_))
}

fn usize32(bytes: u32) -> usize {
    usize::try_from(bytes).expect("32 bits fit into usize")
}
