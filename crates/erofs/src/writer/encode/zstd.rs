//! Zstandard: one frame a pcluster, with a window that readers have room for.
//!
//! The library cannot be told to fill a space. It can be told to end a block, and a frame may end behind any block:
//! so the input goes in by pieces of a block each, the first one somewhat shorter than is predicted to fit. What goes
//! beyond the space is dropped with its piece, and encoded again at the beginning of the next pcluster. Every byte is
//! encoded one and a half times, where mkfs.erofs encodes it some ten times to find the length that fits.

use zstd_safe::zstd_sys::ZSTD_EndDirective;
use zstd_safe::{CCtx, CParameter, InBuffer, OutBuffer, ResetDirective, compress_bound};

use super::super::image_options::OptionsFault;
use super::{Fill, Filled};

/// Longest header of a frame as written here: magic, descriptor, window, and 32 bits of content size.
const HEADER_BYTES_MAX: usize = 10;
const MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();
/// Room for what a flush adds to a block: headers, and an empty block.
const FLUSH_BYTES_MAX: usize = 64;
/// Size of a block's header.
const BLOCK_HEADER_BYTES: usize = 3;
/// Longest block: `ZSTD_BLOCKSIZE_MAX`. It is no longer than the window either.
const BLOCK_BYTES_MAX: usize = 128 << 10;
/// Shortest piece: what is shorter is not worth the header of a block.
const PIECE_BYTES_MIN: usize = 16;
/// Attempts at a pcluster whose input is nothing like the one before.
const ATTEMPTS_MAX: u32 = 4;
/// Space left that is not worth another piece: this part of the whole.
const SLACK: usize = 64;
/// Without experience: input bytes for 65,536 encoded ones.
const RATIO_USUAL: usize = 2 << 16;
/// Highest level that looks up one or two places of a match: its tables are as good when they are small.
const QUICK_LEVEL_MAX: u8 = 4;
/// Largest pcluster whose input is smaller than the tables that the library chooses for it.
const SMALL_PCLUSTER_BYTES_MAX: u32 = 16 << 10;

/// Shortest match that is looked for in a small pcluster.
const MATCH_BYTES_MIN: u32 = 6;

pub(super) struct Zstd {
    context: CCtx<'static>,
    window_bytes: usize,
    /// Input bytes for 65,536 encoded ones, as the pcluster before had them; 0 when nothing is known.
    ratio: usize,
    scratch: Vec<u8>,
}

/// What the pieces of an attempt came to. The blocks of what fits are in scratch, behind a header of the library's.
struct Pieces {
    fits: Option<Filled>,
    /// With the piece that was too much.
    exceeds: Option<Filled>,
}

impl Zstd {
    pub(super) fn new(level: u8, window_bytes: u32, pcluster_bytes: u32) -> Result<Self, OptionsFault> {
        let failed = OptionsFault::NotBuilt { name: "zstd with these settings" };
        let mut context = CCtx::try_create().ok_or_else(|| failed.clone())?;
        context
            .set_parameter(CParameter::CompressionLevel(level.into()))
            .and_then(|_| context.set_parameter(CParameter::WindowLog(window_bytes.ilog2())))
            .map_err(|_| failed.clone())?;
        if level <= QUICK_LEVEL_MAX && pcluster_bytes <= SMALL_PCLUSTER_BYTES_MAX {
            // Two places for each byte of a pcluster, and one for short matches: they stay in the nearest caches. Fewer matches, the
            // short ones, are looked at: what is encoded is 3 to 4 % larger, in 7 % less time.
            let log = pcluster_bytes.ilog2();
            context
                .set_parameter(CParameter::HashLog(log + 1))
                .and_then(|_| context.set_parameter(CParameter::ChainLog(log)))
                .and_then(|_| context.set_parameter(CParameter::MinMatch(MATCH_BYTES_MIN)))
                .map_err(|_| failed)?;
        }
        // At most 1 MiB.
        let window_bytes = usize::try_from(window_bytes).unwrap_or(usize::MAX);
        Ok(Self { context, window_bytes, ratio: 0, scratch: Vec::new() })
    }

    /// Encodes pieces of `input`, the first of `first` bytes, until `space` is nearly full or exceeded.
    ///
    /// A piece is a block at most. A longer one would become several anyway, and would cost all of them when it does
    /// not fit.
    fn pieces(&mut self, input: &[u8], first: usize, space: usize) -> Option<Pieces> {
        let block = self.window_bytes.min(BLOCK_BYTES_MAX);
        let bound = space + compress_bound(block) + FLUSH_BYTES_MAX;
        if self.scratch.len() < bound {
            self.scratch.resize(bound, 0);
        }
        // What is pledged only chooses the tables; it must not be exceeded.
        let pledged = input.len().min((first + first / 2 + 1024).next_power_of_two());
        self.context.reset(ResetDirective::SessionOnly).ok()?;
        self.context.set_pledged_src_size(Some(pledged as u64)).ok()?;
        let mut pieces = Pieces { fits: None, exceeds: None };
        let (mut at, mut out_at, mut piece) = (0, 0, first);
        while at < pledged {
            let end = pledged.min(at + piece.min(block));
            let mut from = InBuffer::around(&input[at..end]);
            let mut to = OutBuffer::around_pos(&mut self.scratch[..], out_at);
            while self.context.compress_stream2(&mut to, &mut from, ZSTD_EndDirective::ZSTD_e_flush).ok()? > 0
            {
            }
            (at, out_at) = (end, to.pos());
            let produced = HEADER_BYTES_MAX + out_at - frame_header_bytes(&self.scratch);
            if produced > space {
                pieces.exceeds = Some(Filled { consumed: at, produced });
                break;
            }
            pieces.fits = Some(Filled { consumed: at, produced: out_at });
            let left = space - produced;
            // A little less than fits by the ratio so far, and room for the tables of one more block.
            let useful = left.saturating_sub(left / 12 + 24);
            piece = useful * at / produced;
            if left < space / SLACK || piece < PIECE_BYTES_MIN {
                break;
            }
        }
        Some(pieces)
    }

    /// Makes a frame of the blocks in scratch that end at `filled.produced`.
    fn finish(&mut self, filled: Filled, out: &mut [u8]) -> Filled {
        let blocks = frame_header_bytes(&self.scratch)..filled.produced;
        let mut header = Vec::with_capacity(HEADER_BYTES_MAX);
        header.extend(MAGIC);
        let content = filled.consumed;
        // A single segment needs no window; its content must fit into that of readers.
        if content <= self.window_bytes && (256..=u16::MAX.into()).contains(&content) {
            header.push(0b0110_0000);
            // Two bytes of size count from 256.
            header.extend(&(content - 256).to_le_bytes()[..2]);
        } else {
            header.push(0b1000_0000);
            // The exponent counts from 10 and stands above three bits of mantissa.
            let log = self.window_bytes.max(1024).ilog2() - 10;
            header.push((log << 3).to_le_bytes()[0]);
            header.extend(&content.to_le_bytes()[..4]);
        }
        let start = header.len();
        let produced = start + blocks.len();
        out[..start].copy_from_slice(&header);
        out[start..produced].copy_from_slice(&self.scratch[blocks]);
        let last = last_block(&out[start..produced]);
        out[start + last] |= 1;
        Filled { consumed: content, produced }
    }
}

impl Fill for Zstd {
    fn fill(&mut self, input: &[u8], out: &mut [u8]) -> Option<Filled> {
        let space = out.len();
        let ratio = if self.ratio == 0 { RATIO_USUAL } else { self.ratio };
        let predicted = (space * ratio) >> 16;
        // An overrun costs all of the first piece, a second piece little more than the header of a block.
        let mut first = predicted - predicted / 5;
        for attempt in 1..=ATTEMPTS_MAX {
            // All of the input, if that is likely to fit.
            first = if input.len() <= first + first / 16 { input.len() } else { first.max(1) };
            let Pieces { fits, exceeds } = self.pieces(input, first, space)?;
            if let Some(known) = fits.or(exceeds) {
                self.ratio = (known.consumed << 16) / known.produced;
            }
            match (fits, exceeds) {
                (Some(filled), exceeds) => {
                    let much_left = filled.consumed < input.len() && filled.produced < space / 5 * 3;
                    if !much_left || attempt == ATTEMPTS_MAX {
                        return Some(self.finish(filled, out));
                    }
                    first = match exceeds {
                        Some(exceeds) => between(filled, exceeds, space),
                        None => ((space * self.ratio) >> 16) / 10 * 9,
                    };
                }
                (None, Some(Filled { consumed, produced })) if consumed > produced => {
                    first = consumed * space / produced * 9 / 10;
                }
                // What gets no shorter.
                _ => return None,
            }
        }
        None
    }

    fn forget(&mut self) {
        self.ratio = 0;
    }
}

/// A length that nearly fills `space`, on the line between one that fits and one that exceeds it.
fn between(fits: Filled, exceeds: Filled, space: usize) -> usize {
    let (bytes, encoded) = (exceeds.consumed - fits.consumed, exceeds.produced - fits.produced);
    fits.consumed + (space - fits.produced) * bytes / encoded.max(1) * 9 / 10
}

/// Length of the frame header that the library wrote.
fn frame_header_bytes(frame: &[u8]) -> usize {
    let descriptor = frame[4];
    let single = descriptor & 0x20 != 0;
    let size = match descriptor >> 6 {
        0 => usize::from(single),
        flag => 1 << flag,
    };
    5 + usize::from(!single) + size
}

/// Where the header of the last block begins; `blocks` holds at least one, and whole ones only.
fn last_block(blocks: &[u8]) -> usize {
    const RLE: u32 = 1;
    let mut at = 0;
    loop {
        let header = u32::from_le_bytes([blocks[at], blocks[at + 1], blocks[at + 2], 0]);
        let bytes = if header >> 1 & 3 == RLE { 1 } else { header >> 3 };
        let next = at + BLOCK_HEADER_BYTES + usize::try_from(bytes).expect("21 bits");
        if next >= blocks.len() {
            return at;
        }
        at = next;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Text that gets harder and easier by turns.
    fn text(seed: u64, len: usize) -> Vec<u8> {
        let mut state = seed | 1;
        let mut bytes = Vec::with_capacity(len + 16);
        while bytes.len() < len {
            state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1_442_695_040_888_963_407);
            let number = state >> 33;
            if (bytes.len() / 5000).is_multiple_of(3) {
                bytes.extend(number.to_le_bytes());
            } else {
                bytes.extend(format!("word {} ", number % 50).bytes());
            }
        }
        bytes.truncate(len);
        bytes
    }

    proptest! {
        #[test]
        fn a_frame_fits_and_decodes_to_what_it_says(
            seed in any::<u64>(),
            len in 1_usize..300_000,
            space in prop::sample::select(vec![512_usize, 4096, 16384, 65536]),
            level in 1_u8..=9,
        ) {
            let input = text(seed, len);
            let mut encoder = Zstd::new(level, 1 << 16, u32::try_from(space).expect("small")).expect("can be had");
            let (mut at, mut out) = (0, vec![0; space]);
            while at < input.len() {
                let Some(filled) = encoder.fill(&input[at..], &mut out) else {
                    at += space;
                    continue;
                };
                prop_assert!(filled.consumed > 0 && filled.produced <= space);
                let frame = &out[..filled.produced];
                let size = zstd_safe::get_frame_content_size(frame).expect("a frame");
                prop_assert_eq!(size, Some(filled.consumed as u64));
                let mut decoded = vec![0; filled.consumed];
                let len = zstd_safe::decompress(&mut decoded[..], frame).expect("decodes");
                prop_assert!(len == filled.consumed && decoded == input[at..at + len]);
                at += filled.consumed;
            }
        }
    }
}
