//! Cuts a piece of a file into extents and encodes them.

use super::super::dedup::{ChunkKey, is_zero};
use super::super::encode::{Encoder, Filled};
use super::super::image_options::Fragments;
use super::piece::{Extent, Kind, Load, Made, Piece, Tail, TailKind};
use super::room::Room;
use crate::BlockSize;

/// Zero bytes in a row that are worth an extent of their own in a compressed file.
const ZEROS_MIN: usize = 256 << 10;
/// Zero bytes in a row that are left out of a file that stays as it is.
const HOLE_MIN: usize = 64 << 10;

/// What a piece is encoded by, beside the encoder.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub block: BlockSize,
    /// Decoded bytes of an extent, at most.
    pub extent_bytes_max: usize,
    /// Bytes of a tail that may stand behind the index, at most; 0 for none.
    pub inline_bytes_max: usize,
    pub fragments: Fragments,
    /// Rotate plain extents so that their bytes lie as in the file.
    pub interlaced: bool,
    /// Decoded bytes of an extent of zeros in a compressed file; 0 to encode them like all else.
    pub zeros_extent: usize,
    /// Cut files that stay as they are into chunks of so many bytes, each content once; 0 not to.
    pub chunk_bytes: usize,
    /// Tell extents by what they hold, so that equal ones are stored once.
    pub dedupe: bool,
}

/// Blocks of an extent of zeros: a reader decodes all of it for one byte, and its pcluster has one block.
const ZEROS_EXTENT_BLOCKS: usize = 32;

/// Decoded bytes of an extent of zeros, where they are stored apart.
pub(in crate::writer) fn zeros_extent(block: BlockSize) -> usize {
    ZEROS_EXTENT_BLOCKS * block.buffer_len()
}

/// Encodes the piece number `index` of a load with `encoder`, or leaves it as it is.
pub(super) fn encode(load: &mut Load, index: usize, rules: &Rules, encoder: Option<&mut Encoder>) {
    let mut piece = load.pieces[index];
    let mut encoder = encoder;
    if piece.hole && encoder.is_some() && rules.zeros_extent == 0 {
        // Old indexes have no extents of zeros: they are encoded like all else.
        (piece.offset, piece.hole) = (load.zeros(piece.len), false);
        load.pieces[index] = piece;
    }
    if rules.dedupe {
        // Equal files are cut alike, whatever stands before them.
        encoder.iter_mut().for_each(|encoder| encoder.forget());
    }
    let made = match encoder {
        Some(encoder) if !piece.hole => encode_piece(load, &piece, rules, encoder),
        Some(_) => Some(zeros(load, &piece, Some(rules.zeros_extent))),
        None if piece.hole => Some(zeros(load, &piece, None)),
        None => None,
    };
    let made = made.unwrap_or_else(|| match rules.chunk_bytes {
        0 => leave(load, &piece, rules.block),
        chunk_bytes => chunk(load, &piece, chunk_bytes),
    });
    load.made.push(made);
}

/// A piece of zeros: extents of `most` bytes for a compressed file, one for a file that stays as it is.
fn zeros(load: &mut Load, piece: &Piece, most: Option<usize>) -> Made {
    let first = load.extents.len();
    push_zeros(&mut load.extents, piece.len, most.unwrap_or(piece.len));
    let end = load.out.len();
    Made { extents: first..load.extents.len(), out: end..end, flat: most.is_none(), tail: None }
}

fn push_zeros(extents: &mut Vec<Extent>, len: usize, most: usize) {
    let mut left = len;
    while left > 0 {
        let len = left.min(most);
        extents.push(extent(len, 0, Kind::Zeros));
        left -= len;
    }
}

/// Leaves a piece as it is, but for long runs of zeros.
fn leave(load: &mut Load, piece: &Piece, block: BlockSize) -> Made {
    let first = load.extents.len();
    let bytes = &load.buffer[piece.offset..piece.offset + piece.len];
    let mut at = 0;
    for (start, end) in zero_runs(bytes, block, HOLE_MIN) {
        // Large files have tables of few entries: the zeros before and after those are stored.
        let start = start.next_multiple_of(piece.hole_bytes);
        let end = if end == piece.len { end } else { end / piece.hole_bytes * piece.hole_bytes };
        if start >= end {
            continue;
        }
        if start > at {
            load.extents.push(extent(start - at, start - at, Kind::Plain));
        }
        load.extents.push(extent(end - start, 0, Kind::Zeros));
        at = end;
    }
    if at < piece.len {
        load.extents.push(extent(piece.len - at, piece.len - at, Kind::Plain));
    }
    let end = load.out.len();
    Made { extents: first..load.extents.len(), out: end..end, flat: true, tail: None }
}

/// Cuts a piece into chunks.
fn chunk(load: &mut Load, piece: &Piece, chunk_bytes: usize) -> Made {
    let first = load.extents.len();
    for bytes in load.buffer[piece.offset..piece.offset + piece.len].chunks(chunk_bytes) {
        load.extents.push(if is_zero(bytes) {
            extent(bytes.len(), 0, Kind::Zeros)
        } else {
            Extent { key: Some(ChunkKey::of(bytes)), ..extent(bytes.len(), bytes.len(), Kind::Plain) }
        });
    }
    let end = load.out.len();
    Made { extents: first..load.extents.len(), out: end..end, flat: true, tail: None }
}

/// The runs of whole zero blocks of at least `min` bytes; the last may end with the piece.
fn zero_runs(bytes: &[u8], block: BlockSize, min: usize) -> Vec<(usize, usize)> {
    let mut runs = Vec::new();
    let mut start = None;
    let mut at = 0;
    for piece in bytes.chunks(block.buffer_len()) {
        if is_zero(piece) {
            start.get_or_insert(at);
        } else if let Some(start) = start.take().filter(|start| at - start >= min) {
            runs.push((start, at));
        }
        at += piece.len();
    }
    runs.extend(start.filter(|start| at - start >= min).map(|start| (start, at)));
    runs
}

/// Encodes a piece; `None` when it is better left as it is.
fn encode_piece(load: &mut Load, piece: &Piece, rules: &Rules, encoder: &mut Encoder) -> Option<Made> {
    let Load { buffer, extents, out, .. } = load;
    let input = &buffer[piece.offset..piece.offset + piece.len];
    let (first, out_start) = (extents.len(), out.len());
    let mut cutter = Cutter { piece, rules, encoder, input, extents, out, tail: None };
    let mut at = 0;
    if rules.zeros_extent > 0 {
        for (start, end) in zero_runs(input, rules.block, ZEROS_MIN) {
            cutter.run(at, start);
            push_zeros(cutter.extents, end - start, rules.zeros_extent);
            at = end;
        }
    }
    cutter.run(at, input.len());
    let tail = cutter.tail;
    let whole = piece.start == 0 && piece.last;
    if whole && !is_shorter(&extents[first..], tail.as_ref(), piece.len, rules.block) {
        extents.truncate(first);
        out.truncate(out_start);
        return None;
    }
    Some(Made { extents: first..extents.len(), out: out_start..out.len(), flat: false, tail })
}

/// Whether a whole file takes less than it would as it is.
fn is_shorter(extents: &[Extent], tail: Option<&Tail>, len: usize, block: BlockSize) -> bool {
    let some_encoded = extents.iter().any(|extent| extent.kind == Kind::Encoded);
    match tail.map(|tail| &tail.kind) {
        Some(TailKind::Fragment { .. }) => true,
        // Plain extents and a plain tail need no index to say so.
        Some(TailKind::Inline { kind, .. }) => some_encoded || *kind == Kind::Encoded,
        None => {
            let encoded: u64 = extents.iter().map(|extent| u64::from(extent.encoded)).sum();
            some_encoded && encoded < block.blocks(len as u64) << block.bits()
        }
    }
}

/// Cuts extents one after the other.
struct Cutter<'a, 'b> {
    piece: &'a Piece,
    rules: &'a Rules,
    encoder: &'a mut Encoder,
    input: &'b [u8],
    extents: &'a mut Vec<Extent>,
    out: &'a mut Room,
    tail: Option<Tail>,
}

impl<'b> Cutter<'_, 'b> {
    /// Cuts up the bytes from `at` to `end`, which hold no long runs of zeros.
    fn run(&mut self, mut at: usize, end: usize) {
        let ends_file = self.piece.last && end == self.input.len();
        while at < end {
            if ends_file && self.is_fragment(at) {
                let key = ChunkKey::of(&self.input[at..]);
                self.tail = Some(Tail { len: bytes32(end - at), kind: TailKind::Fragment { key } });
                return;
            }
            at += self.step(at, end, ends_file);
        }
    }

    /// Whether what is left of the file goes into the packed inode.
    fn is_fragment(&self, at: usize) -> bool {
        match self.rules.fragments {
            Fragments::None => false,
            Fragments::Tails => self.input.len() - at <= self.pcluster_bytes(),
            Fragments::All => {
                at == 0 && self.piece.start == 0 || self.input.len() - at <= self.pcluster_bytes()
            }
        }
    }

    fn pcluster_bytes(&self) -> usize {
        // At most 1 MiB.
        usize::try_from(self.piece.method.pcluster_bytes).unwrap_or(usize::MAX)
    }

    /// Makes the next extent, or several plain ones; returns how many bytes they hold.
    fn step(&mut self, at: usize, end: usize, ends_file: bool) -> usize {
        let block = self.rules.block.buffer_len();
        let rest = &self.input[at..end.min(at + self.rules.extent_bytes_max)];
        let space = self.pcluster_bytes();
        let filled = self.encoder.fill(rest, self.out.behind(space));
        let Some(Filled { consumed, produced }) = filled else {
            return self.plain(at, end, space / block, ends_file);
        };
        let ends = ends_file && at + consumed == end;
        if ends && self.is_inline(consumed, produced) {
            let start = self.out.len();
            self.out.take(produced);
            let kind = TailKind::Inline { bytes: start..self.out.len(), kind: Kind::Encoded };
            self.tail = Some(Tail { len: bytes32(consumed), kind });
            return consumed;
        }
        let encoded = produced.next_multiple_of(block);
        let needed = if at + consumed == end { consumed.next_multiple_of(block) } else { consumed };
        if needed <= encoded {
            return self.plain(at, end, (consumed / block).max(1), ends_file);
        }
        // Right-aligned: what a reader skips are the zeros before it.
        let pcluster = self.out.behind(encoded);
        pcluster.copy_within(..produced, encoded - produced);
        pcluster[..encoded - produced].fill(0);
        self.out.take(encoded);
        let input: &'b [u8] = self.input;
        self.push(&input[at..at + consumed], encoded, Kind::Encoded, 0);
        consumed
    }

    /// Notes an extent whose bytes have been put out.
    fn push(&mut self, bytes: &[u8], encoded: usize, kind: Kind, rotated: usize) {
        let key = self.rules.dedupe.then(|| ChunkKey::of(bytes));
        let rotated = u16::try_from(rotated).expect("less than a block of 64 KiB");
        self.extents.push(Extent { key, rotated, ..extent(bytes.len(), encoded, kind) });
    }

    /// Whether the end of the file, encoded in `produced` bytes, goes behind the inode.
    fn is_inline(&self, consumed: usize, produced: usize) -> bool {
        produced < consumed && produced <= self.rules.inline_bytes_max
    }

    /// Makes up to `blocks` plain extents of a block each.
    fn plain(&mut self, at: usize, end: usize, blocks: usize, ends_file: bool) -> usize {
        let block = self.rules.block.buffer_len();
        let mut from = at;
        for _ in 0..blocks.max(1) {
            let input: &'b [u8] = self.input;
            let bytes = &input[from..end.min(from + block)];
            if bytes.is_empty() || from > at && ends_file && self.is_fragment(from) {
                break;
            }
            let ends = ends_file && from + bytes.len() == end;
            if ends && bytes.len() <= self.rules.inline_bytes_max {
                let start = self.out.len();
                self.out.push(bytes);
                let kind = TailKind::Inline { bytes: start..self.out.len(), kind: Kind::Plain };
                self.tail = Some(Tail { len: bytes32(bytes.len()), kind });
                return end - at;
            }
            let out = self.out.behind(block);
            let place = if self.rules.interlaced { from % block } else { 0 };
            let (head, rest) = bytes.split_at(bytes.len().min(block - place));
            if bytes.len() < block {
                out.fill(0);
            }
            out[place..place + head.len()].copy_from_slice(head);
            out[..rest.len()].copy_from_slice(rest);
            self.out.take(block);
            self.push(bytes, block, Kind::Plain, place);
            from += bytes.len();
        }
        from - at
    }
}

fn extent(len: usize, encoded: usize, kind: Kind) -> Extent {
    Extent { len: bytes32(len), encoded: bytes32(encoded), kind, key: None, rotated: 0 }
}

/// Narrows a number of bytes of a piece.
fn bytes32(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a piece has a few megabytes")
}

#[cfg(test)]
mod tests {
    use super::super::super::image_options::ImageOptions;
    use super::super::codecs::Codecs;
    use super::super::piece::Method;
    use super::super::rules;
    use super::*;

    /// What is encoded of some pieces, in a load whose memory has been used for other things or has not.
    fn encoded(options: &ImageOptions<'_>, was_used: bool) -> Vec<Vec<u8>> {
        let block = BlockSize::B4096;
        let codecs = Codecs::new(options, block).expect("they are known");
        let mut encoder = codecs.encoder(0).expect("it can be made");
        let mut load = Load::default();
        if was_used {
            load.out.behind(4 << 20).fill(0xAA);
        }
        let mut random = 1_u32;
        let mut noise = |_| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            random.to_le_bytes()[3]
        };
        let mut offset = 0;
        // A short plain end behind encoded extents, where nothing has been tried before; encoded ones; what is left as it is.
        for (len, from) in
            [(30_000, 11_000), (5000, 0), (300_000, 100), (100, 0), (9000, 9000), (70_000, 70_000)]
        {
            let bytes = load.room(offset, len, block);
            bytes.iter_mut().enumerate().for_each(|(at, byte)| *byte = b"some text "[at % 10]);
            bytes[len - from..].iter_mut().for_each(|byte| *byte = noise(()));
            load.pieces.push(Piece {
                file: 0,
                start: 0,
                len,
                offset,
                last: true,
                hole: false,
                hole_bytes: 4096,
                method: Method { compressor: Some(0), pcluster_bytes: options.pcluster_bytes },
            });
            offset = load.buffer.len();
        }
        load.finish(block);
        for piece in 0..load.pieces.len() {
            encode(&mut load, piece, &rules(options, block), Some(&mut encoder));
        }
        load.made.iter().map(|made| load.out.get(made.out.clone()).to_vec()).collect()
    }

    #[test]
    fn p6_nothing_of_what_was_in_memory_before_gets_into_an_image() {
        for codec in ["lz4", "lz4hc", "deflate", "libdeflate", "lzma", "zstd"] {
            for (pcluster_bytes, dedupe, tail_packing) in
                [(4096, false, false), (65_536, false, true), (16_384, true, false)]
            {
                let options = ImageOptions {
                    compressors: vec![codec.parse().expect("a codec")],
                    pcluster_bytes,
                    dedupe,
                    tail_packing,
                    ..ImageOptions::default()
                };
                let fresh = encoded(&options, false);
                assert!(fresh.iter().any(|bytes| !bytes.is_empty()), "{codec}: nothing was encoded");
                assert!(encoded(&options, true) == fresh, "{codec}, {pcluster_bytes}: bytes of before");
            }
        }
    }
}
