//! [`FileRuns`]: where the chunks of every file went, as runs that lie in one piece.

use std::num::NonZero;

use crate::BlockSize;

/// Chunks of one file that follow each other, in the file and where they lie.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Run {
    /// Number of chunks, each of the unit of deduplication.
    pub chunks: u64,
    pub target: Target,
}

/// Where a run lies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Target {
    /// Nowhere: zeros.
    Hole,
    Data(BlockRef),
}

/// A block on a device of the writer's own numbering: 0 is the new blob, then the dictionaries' devices.
///
/// Both in 8 bytes, and inverted so that a [`Target`] takes no more: large images have millions of them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct BlockRef(NonZero<u64>);

impl BlockRef {
    const BLOCK_BITS: u32 = 48;

    /// `None` when the block takes more than 48 bits, and for the one pair that all bits are needed for.
    pub(super) fn new(device: u16, block: u64) -> Option<Self> {
        if block >> Self::BLOCK_BITS != 0 {
            return None;
        }
        NonZero::new(!(u64::from(device) << Self::BLOCK_BITS | block)).map(Self)
    }

    pub(super) fn device(self) -> usize {
        usize::from(self.device_number())
    }

    pub(super) fn block(self) -> u64 {
        !self.0.get() & ((1 << Self::BLOCK_BITS) - 1)
    }

    pub(super) fn device_number(self) -> u16 {
        u16::try_from(!self.0.get() >> Self::BLOCK_BITS).expect("64 bits less 48")
    }

    fn advance(self, blocks: u64) -> Option<Self> {
        Self::new(self.device_number(), self.block().checked_add(blocks)?)
    }
}

/// The runs of all files, one file after the other.
#[derive(Debug, Default)]
pub(super) struct FileRuns {
    runs: Vec<Run>,
    /// Where each file's runs begin.
    starts: Vec<usize>,
}

impl FileRuns {
    /// Begins the next file.
    pub(super) fn begin_file(&mut self) {
        self.starts.push(self.runs.len());
    }

    /// Adds chunks to the file at hand; joins them with the run before if they continue it.
    pub(super) fn push(&mut self, chunks: u64, target: Target, chunk_blocks: u64) {
        let start = self.starts.last().copied().unwrap_or(0);
        if chunks == 0 {
            return;
        }
        if let Some(last) = self.runs[start..].last_mut() {
            let continues = match (last.target, target) {
                (Target::Hole, Target::Hole) => true,
                (Target::Data(before), Target::Data(after)) => {
                    let end = last.chunks.checked_mul(chunk_blocks).and_then(|blocks| before.advance(blocks));
                    end == Some(after)
                }
                _ => false,
            };
            if continues {
                last.chunks += chunks;
                return;
            }
        }
        self.runs.push(Run { chunks, target });
    }

    /// Moves the first run of the file at hand elsewhere.
    pub(super) fn move_first(&mut self, target: Target) {
        let start = self.starts.last().copied().unwrap_or(0);
        if let Some(first) = self.runs.get_mut(start) {
            first.target = target;
        }
    }

    /// Moves all data by so many blocks.
    #[cfg(test)]
    pub(super) fn shift(&mut self, blocks: u64) {
        for run in &mut self.runs {
            if let Target::Data(at) = &mut run.target {
                *at = at.advance(blocks).expect("within 48 bits");
            }
        }
    }

    /// The runs of a file.
    pub(super) fn of(&self, file: usize) -> &[Run] {
        let end = self.starts.get(file + 1).copied().unwrap_or(self.runs.len());
        &self.runs[self.starts[file]..end]
    }

    pub(super) fn files(&self) -> usize {
        self.starts.len()
    }

    pub(super) fn all(&self) -> &[Run] {
        &self.runs
    }
}

/// Base-2 logarithm of the largest chunk, in units, with which a table can say what `runs` say.
///
/// A chunk lies in one piece, so each place where a run ends must be a chunk boundary. A file of one run
/// gets one chunk, up to the largest the format has.
pub(super) fn merged_bits(runs: &[Run], block: BlockSize, unit_bits: u8) -> u8 {
    let most = crate::ChunkFormat::BLOCKS_BITS_MAX - (unit_bits - block.bits());
    let total: u64 = runs.iter().map(|run| run.chunks).sum();
    let mut bits = total.max(1).next_power_of_two().trailing_zeros();
    let mut end = 0;
    for run in &runs[..runs.len().saturating_sub(1)] {
        end += run.chunks;
        bits = bits.min(end.trailing_zeros());
    }
    u8::try_from(bits).map_or(most, |bits| bits.min(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(block: u64) -> Target {
        Target::Data(BlockRef::new(0, block).expect("small"))
    }

    #[test]
    fn a_block_keeps_its_device_and_takes_eight_bytes() {
        assert_eq!(size_of::<Run>(), 16);
        for (device, block) in [(0, 0), (0, (1 << 48) - 1), (u16::MAX, 0), (7, 12345)] {
            let at = BlockRef::new(device, block).expect("within range");
            assert_eq!((at.device(), at.block()), (usize::from(device), block));
            assert_eq!(at.advance(1), BlockRef::new(device, block + 1));
        }
        assert_eq!((BlockRef::new(0, 1 << 48), BlockRef::new(u16::MAX, (1 << 48) - 1)), (None, None));
    }

    #[test]
    fn neighbours_become_one_run_only_where_they_touch() {
        let mut runs = FileRuns::default();
        runs.begin_file();
        for target in [at(0), at(16), at(48), Target::Hole, Target::Hole] {
            runs.push(1, target, 16);
        }
        runs.begin_file();
        runs.push(1, Target::Hole, 16);
        let expected = [(2, at(0)), (1, at(48)), (2, Target::Hole)];
        assert_eq!(runs.of(0), expected.map(|(chunks, target)| Run { chunks, target }));
        assert_eq!(runs.of(1).len(), 1, "runs do not reach into the next file");
    }

    #[test]
    fn the_chunk_is_as_large_as_every_boundary_allows() {
        let bits = |lengths: &[u64]| {
            let runs: Vec<_> = lengths.iter().map(|&chunks| Run { chunks, target: at(0) }).collect();
            merged_bits(&runs, BlockSize::B4096, 16)
        };
        assert_eq!(bits(&[1]), 0);
        assert_eq!(bits(&[5]), 3, "one run, one chunk");
        assert_eq!(bits(&[8, 1]), 3);
        assert_eq!(bits(&[4, 8]), 2);
        assert_eq!(bits(&[3, 100]), 0);
        assert_eq!(bits(&[1 << 47]), 27, "no chunk above 2^31 blocks");
    }
}
