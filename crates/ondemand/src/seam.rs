//! [`Seams`]: the blocks that two chunks share.
//!
//! The cache marks whole blocks. Where a chunk's edge does not fall on a block boundary, which the chunk index allows,
//! the block belongs to two chunks or more: its first part is kept here until the rest has come.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
};

use bytes::Bytes;
use larder_fscache::{BlockSize, ObjectRange};

/// Blocks kept at most; the oldest make way, and are fetched again when they are wanted. Not the lowest: those of the superblock
/// and the root are the ones that are waited for.
const SEAMS_MAX: usize = 32;

/// The parts of shared blocks that have come.
#[derive(Debug)]
pub(crate) struct Seams {
    block: BlockSize,
    size: u64,
    parts: BTreeMap<u64, Vec<Part>>,
    /// The blocks in `parts`, oldest first.
    ages: VecDeque<u64>,
}

#[derive(Clone, Debug)]
struct Part {
    at: u64,
    bytes: Bytes,
}

impl Part {
    fn end(&self) -> u64 {
        self.at + self.bytes.len() as u64
    }
}

/// Bytes that fill whole blocks and can be written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Whole {
    /// Where they go.
    pub at: u64,
    /// The bytes.
    pub bytes: Bytes,
}

impl Seams {
    /// Starts empty, for an object of `size` bytes.
    pub fn new(block: BlockSize, size: u64) -> Self {
        Self { block, size, parts: BTreeMap::new(), ages: VecDeque::new() }
    }

    /// Takes in the verified chunk at `at` and returns what can be written now.
    pub fn add(&mut self, at: u64, bytes: &Bytes) -> Vec<Whole> {
        let end = at + bytes.len() as u64;
        let core = self.core(at..end);
        let mut whole = Vec::new();
        let cut = |range: Range<u64>| -> Part {
            let offset = |n: u64| usize::try_from(n - at).unwrap_or(usize::MAX).min(bytes.len());
            Part { at: range.start, bytes: bytes.slice(offset(range.start)..offset(range.end)) }
        };
        if core.is_empty() {
            whole.extend(self.keep(cut(at..end)));
            return whole;
        }
        let middle = cut(core.clone());
        whole.push(Whole { at: middle.at, bytes: middle.bytes });
        for edge in [at..core.start, core.end..end] {
            if !edge.is_empty() {
                whole.extend(self.keep(cut(edge)));
            }
        }
        whole
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Whether the parts of `chunk` in the blocks that it shares are kept here.
    pub fn holds(&self, chunk: ObjectRange, block_at: u64) -> bool {
        let Some(parts) = self.parts.get(&block_at) else { return false };
        let from = chunk.start().max(block_at);
        parts.iter().any(|part| part.at == from && chunk.end().min(self.block_end(block_at)) <= part.end())
    }

    /// The whole blocks within `range`: the end of the object counts as a boundary. May be empty.
    fn core(&self, range: Range<u64>) -> Range<u64> {
        let start = self.block.round_up(range.start).unwrap_or(u64::MAX);
        let end = if range.end >= self.size { range.end } else { self.block.round_down(range.end) };
        if start < end { start..end } else { range.start..range.start }
    }

    fn block_end(&self, block_at: u64) -> u64 {
        block_at.saturating_add(self.block.bytes()).min(self.size)
    }

    /// Keeps a part; a part that spans two blocks (a chunk without a whole block in it) is kept in each.
    fn keep(&mut self, part: Part) -> Vec<Whole> {
        let mut whole = Vec::new();
        let mut at = part.at;
        while at < part.end() {
            let block_at = self.block.round_down(at);
            let until = self.block_end(block_at).min(part.end());
            let offset = |n: u64| usize::try_from(n - part.at).unwrap_or(usize::MAX).min(part.bytes.len());
            // A copy, so that a few bytes do not hold a whole chunk in memory.
            let bytes = Bytes::copy_from_slice(&part.bytes[offset(at)..offset(until)]);
            whole.extend(self.join(block_at, Part { at, bytes }));
            at = until;
        }
        whole
    }

    fn join(&mut self, block_at: u64, part: Part) -> Option<Whole> {
        let end = self.block_end(block_at);
        let parts = self.parts.entry(block_at).or_insert_with(|| {
            self.ages.push_back(block_at);
            Vec::new()
        });
        parts.retain(|kept| kept.at != part.at);
        parts.push(part);
        parts.sort_unstable_by_key(|part| part.at);
        let mut reached = block_at;
        for part in parts.iter() {
            if part.at != reached {
                break;
            }
            reached = part.end();
        }
        if reached == end {
            let parts = self.forget(block_at)?;
            let bytes: Vec<u8> = parts.iter().flat_map(|part| part.bytes.iter().copied()).collect();
            return Some(Whole { at: block_at, bytes: bytes.into() });
        }
        if self.parts.len() > SEAMS_MAX {
            let oldest = *self.ages.front()?;
            self.forget(oldest);
        }
        None
    }

    fn forget(&mut self, block_at: u64) -> Option<Vec<Part>> {
        self.ages.retain(|kept| *kept != block_at);
        self.parts.remove(&block_at)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BLOCK: BlockSize = BlockSize::FOUR_KIB;

    #[test]
    fn the_block_that_came_last_is_never_the_one_that_makes_way() {
        let part = |at: u64| (at * 4096 + 100, Bytes::from(vec![1; 8]));
        let mut seams = Seams::new(BLOCK, 1 << 30);
        for (at, bytes) in (1000..2000).map(part) {
            seams.add(at, &bytes);
        }
        let (at, bytes) = part(0);
        seams.add(at, &bytes);
        assert!(seams.parts.contains_key(&0), "although it is the lowest");
        for (at, bytes) in (2000..2000 + SEAMS_MAX as u64 - 1).map(part) {
            seams.add(at, &bytes);
        }
        assert!(seams.parts.contains_key(&0), "its turn comes when all that are older have gone");
        assert_eq!((seams.parts.len(), seams.ages.len()), (SEAMS_MAX, SEAMS_MAX));
    }

    #[test]
    fn an_aligned_chunk_passes_through_uncopied() {
        let mut seams = Seams::new(BLOCK, 1 << 20);
        let bytes = Bytes::from(vec![1; 8192]);
        let whole = seams.add(4096, &bytes);
        assert_eq!(whole.len(), 1);
        assert_eq!(whole[0].bytes.as_ptr(), bytes.as_ptr());
    }

    #[test]
    fn the_last_chunk_may_end_anywhere() {
        let mut seams = Seams::new(BLOCK, 5000);
        let whole = seams.add(0, &Bytes::from(vec![1; 5000]));
        assert_eq!(whole, [Whole { at: 0, bytes: Bytes::from(vec![1; 5000]) }]);
        assert!(seams.parts.is_empty());
    }

    #[test]
    fn a_shared_block_is_written_when_both_parts_are_there() {
        let mut seams = Seams::new(BLOCK, 12_288);
        let first = ObjectRange::at(0, 6000);
        assert_eq!(seams.add(0, &Bytes::from(vec![1; 6000])).len(), 1);
        assert!(seams.holds(first, 4096));
        assert!(!seams.holds(ObjectRange::at(6000, 6288), 4096));
        let whole = seams.add(6000, &Bytes::from(vec![2; 6288]));
        assert_eq!(whole.len(), 2);
        assert_eq!(whole[1].at, 4096);
        assert_eq!(whole[1].bytes.len(), 4096);
        assert!(seams.parts.is_empty());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut seams = Seams::new(BLOCK, 1 << 30);
        for n in 0..1000 {
            seams.add(n * 4096, &Bytes::from_static(b"part"));
        }
        assert!(seams.parts.len() <= SEAMS_MAX);
    }

    proptest! {
        /// Whatever the chunk sizes and the order, every block is written exactly once, whole and right.
        #[test]
        fn every_block_comes_out_once(
            lens in prop::collection::vec(1usize..1500, 1..40),
            order in any::<prop::sample::Index>(),
        ) {
            let block = BlockSize::from_bits(9).expect("512 bytes");
            let size: usize = lens.iter().sum();
            let data: Vec<u8> = (0..size).map(|n| u8::try_from(n % 241).expect("under 241")).collect();
            let mut chunks = Vec::new();
            let mut at = 0;
            for len in lens {
                chunks.push(at..at + len);
                at += len;
            }
            let pivot = order.index(chunks.len());
            chunks.rotate_left(pivot);
            let mut seams = Seams::new(block, size as u64);
            let mut written = vec![None; size];
            for chunk in chunks {
                let bytes = Bytes::copy_from_slice(&data[chunk.clone()]);
                for whole in seams.add(chunk.start as u64, &bytes) {
                    let at = usize::try_from(whole.at).expect("small");
                    prop_assert!(whole.at % 512 == 0);
                    let end = at + whole.bytes.len();
                    prop_assert!(end % 512 == 0 || end == size);
                    for (slot, byte) in written[at..end].iter_mut().zip(&whole.bytes) {
                        prop_assert!(slot.replace(*byte).is_none());
                    }
                }
            }
            let written: Option<Vec<u8>> = written.into_iter().collect();
            prop_assert_eq!(written, Some(data));
        }
    }
}
