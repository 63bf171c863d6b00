//! [`Presence`]: one bit a block, set when the block's bytes are in the backing file.
//!
//! The bits are the truth about an object. A bit is set with `Release` after the write returned, and
//! read with `Acquire` before the data is: who sees the bit sees the bytes. Where the words live is the
//! backend's affair (a vector, shared memory), so that the map can outlive a process.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{BlockSize, ObjectRange, Run};

/// Blocks in one word of the map.
const WORD_BLOCKS: u64 = 64;

/// A view of the presence map of one object. Lock-free; no method allocates except [`snapshot`].
///
/// [`snapshot`]: Presence::snapshot
#[derive(Clone, Copy, Debug)]
pub struct Presence<'a> {
    words: &'a [AtomicU64],
    size: u64,
    block: BlockSize,
}

impl<'a> Presence<'a> {
    /// Number of 64-bit words that the map of an object of `size` bytes takes.
    pub const fn words_for(size: u64, block: BlockSize) -> u64 {
        block.count(size).div_ceil(WORD_BLOCKS)
    }

    /// Looks at `words` as the map of an object of `size` bytes, or returns `None` when their number is wrong.
    pub fn new(words: &'a [AtomicU64], size: u64, block: BlockSize) -> Option<Self> {
        (words.len() as u64 == Self::words_for(size, block)).then_some(Self { words, size, block })
    }

    /// Says what the map knows from `want.start()` on, looking no further than `want.end()`.
    ///
    /// Scans a word at a time. An answer ends on a block boundary or at the end of the object.
    #[inline]
    pub fn probe(&self, want: ObjectRange) -> Run {
        if want.start() >= self.size {
            return Run::Hole { until: u64::MAX };
        }
        let first = want.start() >> self.block.bits();
        let limit = self.block.count(want.end().min(self.size)).max(first + 1);
        let here = self.load(first / WORD_BLOCKS);
        if here >> (first % WORD_BLOCKS) & 1 == 1 {
            Run::Present { until: self.run_end(first, limit, here, u64::MAX) }
        } else {
            Run::Hole { until: self.run_end(first, limit, here, 0) }
        }
    }

    /// Marks the blocks that `written` covers whole, and returns how many bytes that made newly present.
    ///
    /// The end of the object counts as a block boundary. Call it only after the write has returned.
    pub fn set(&self, written: ObjectRange) -> u64 {
        let first = self.block.count(written.start());
        let end = if written.end() >= self.size {
            self.block.count(self.size)
        } else {
            written.end() >> self.block.bits()
        };
        let mut fresh = 0;
        let mut at = first;
        while at < end {
            let (word, mask, next) = mask_from(at, end);
            let before = self.word(word).fetch_or(mask, Ordering::Release);
            fresh += self.bytes_of(word, mask & !before);
            at = next;
        }
        fresh
    }

    /// Clears every bit that `keep` does not have, and returns how many bytes that made missing.
    ///
    /// Words that `keep` lacks are cleared whole.
    pub fn retain(&self, keep: &[u64]) -> u64 {
        let mut lost = 0;
        for (index, word) in self.words.iter().enumerate() {
            let kept = keep.get(index).copied().unwrap_or(0);
            let before = word.fetch_and(kept, Ordering::AcqRel);
            lost += self.bytes_of(index as u64, before & !kept);
        }
        lost
    }

    /// Copies the bits. Bytes whose bit is in the copy were written before the copy was taken.
    pub fn snapshot(&self) -> Vec<u64> {
        self.words.iter().map(|word| word.load(Ordering::Acquire)).collect()
    }

    /// Counts the bytes that are present.
    pub fn present_bytes(&self) -> u64 {
        (0..).zip(self.words).map(|(index, word)| self.bytes_of(index, word.load(Ordering::Acquire))).sum()
    }

    /// Returns the bits of word `index` that stand for blocks of the object; the rest must stay 0.
    pub fn valid_mask(&self, index: u64) -> u64 {
        let blocks = self.block.count(self.size).saturating_sub(index.saturating_mul(WORD_BLOCKS));
        if blocks >= WORD_BLOCKS { u64::MAX } else { (1 << blocks) - 1 }
    }

    /// Returns the end, in bytes, of the run that has block `first` in it: where a word stops being `all`.
    #[inline]
    fn run_end(&self, first: u64, limit: u64, here: u64, all: u64) -> u64 {
        let mut index = first / WORD_BLOCKS;
        let mut other = (here ^ all) & (u64::MAX << (first % WORD_BLOCKS));
        while other == 0 {
            index += 1;
            if index * WORD_BLOCKS >= limit {
                return self.block_end(limit);
            }
            other = self.load(index) ^ all;
        }
        self.block_end((index * WORD_BLOCKS + u64::from(other.trailing_zeros())).min(limit))
    }

    /// The byte at which `blocks` whole blocks end, which for the last one is the end of the object.
    #[inline]
    fn block_end(&self, blocks: u64) -> u64 {
        blocks.saturating_mul(self.block.bytes()).min(self.size)
    }

    /// The bytes that the blocks in `mask` of word `index` hold.
    fn bytes_of(&self, index: u64, mask: u64) -> u64 {
        let whole = u64::from(mask.count_ones()) * self.block.bytes();
        let last = self.block.count(self.size).wrapping_sub(1);
        let holds_last = last / WORD_BLOCKS == index && mask >> (last % WORD_BLOCKS) & 1 == 1;
        // The last block may be shorter than the others.
        if holds_last { whole - self.block.bytes() + (self.size - last * self.block.bytes()) } else { whole }
    }

    #[inline]
    fn load(&self, index: u64) -> u64 {
        self.word(index).load(Ordering::Acquire)
    }

    #[inline]
    fn word(&self, index: u64) -> &AtomicU64 {
        // Every index comes from a block below the end of the object, and `new` counted the words.
        &self.words[usize::try_from(index).expect("an index into a slice fits usize")]
    }
}

/// Returns the word that holds block `at`, the bits of `at..end` in it, and the first block after them.
fn mask_from(at: u64, end: u64) -> (u64, u64, u64) {
    let word = at / WORD_BLOCKS;
    let next = end.min((word + 1) * WORD_BLOCKS);
    let low = u64::MAX << (at % WORD_BLOCKS);
    let high = u64::MAX >> (word * WORD_BLOCKS + WORD_BLOCKS - next);
    (word, low & high, next)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    const BLOCK: BlockSize = BlockSize::FOUR_KIB;

    /// Packs a `Vec<bool>` into words.
    pub(crate) fn words_of(map: &[bool]) -> Vec<AtomicU64> {
        map.chunks(64)
            .map(|chunk| AtomicU64::new((0..).zip(chunk).map(|(bit, &set)| u64::from(set) << bit).sum()))
            .collect()
    }

    fn empty(size: u64) -> Vec<AtomicU64> {
        (0..Presence::words_for(size, BLOCK)).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    fn only_whole_blocks_are_marked_and_the_end_of_the_object_is_a_boundary() {
        let size = 3 * 4096 + 10;
        let words = empty(size);
        let map = Presence::new(&words, size, BLOCK).expect("sized");
        assert_eq!(map.set(ObjectRange::at(1, 4095)), 0);
        assert_eq!(map.set(ObjectRange::at(1, 8191)), 4096);
        assert_eq!(map.set(ObjectRange::at(3 * 4096, 9)), 0);
        assert_eq!(map.set(ObjectRange::at(3 * 4096, 10)), 10);
        assert_eq!(map.set(ObjectRange::at(0, size)), 2 * 4096);
        assert_eq!(map.present_bytes(), size);
        assert_eq!(map.probe(ObjectRange::at(0, u64::MAX)), Run::Present { until: size });
        assert_eq!(map.snapshot(), [0b1111]);
    }

    #[test]
    fn a_probe_looks_no_further_than_it_is_asked() {
        let size = 1000 * 4096;
        let words = empty(size);
        let map = Presence::new(&words, size, BLOCK).expect("sized");
        map.set(ObjectRange::at(0, 900 * 4096));
        assert_eq!(map.probe(ObjectRange::at(0, 1)), Run::Present { until: 4096 });
        assert_eq!(map.probe(ObjectRange::at(0, 0)), Run::Present { until: 4096 });
        assert_eq!(map.probe(ObjectRange::at(5, 200 * 4096)), Run::Present { until: 201 * 4096 });
        assert_eq!(map.probe(ObjectRange::at(5, u64::MAX)), Run::Present { until: 900 * 4096 });
        assert_eq!(map.probe(ObjectRange::at(900 * 4096, u64::MAX)), Run::Hole { until: size });
        assert_eq!(map.probe(ObjectRange::at(size, 1)), Run::Hole { until: u64::MAX });
    }

    #[test]
    fn an_object_of_no_bytes_has_a_map_of_no_words() {
        let map = Presence::new(&[], 0, BLOCK).expect("sized");
        assert_eq!((map.present_bytes(), map.set(ObjectRange::at(0, 0))), (0, 0));
        assert!(Presence::new(&[AtomicU64::new(0)], 0, BLOCK).is_none());
    }

    #[test]
    fn bits_past_the_end_are_not_valid() {
        let words = empty(65 * 4096);
        let map = Presence::new(&words, 65 * 4096, BLOCK).expect("sized");
        assert_eq!([map.valid_mask(0), map.valid_mask(1), map.valid_mask(2)], [u64::MAX, 1, 0]);
    }

    proptest! {
        #[test]
        fn maps_agree_with_a_vector_of_bools(
            blocks in 1u64..300,
            tail in 0u64..4096,
            writes in proptest::collection::vec((0u64..1_300_000, 0u64..600_000), 0..8),
            asks in proptest::collection::vec((0u64..1_300_000, 0u64..600_000), 1..16),
        ) {
            let size = blocks * 4096 - tail;
            let words = empty(size);
            let map = Presence::new(&words, size, BLOCK).expect("sized");
            let mut model = vec![false; usize::try_from(blocks).expect("small")];
            let bytes = |model: &[bool]| -> u64 {
                (0..).zip(model).filter(|(_, set)| **set).map(|(b, _)| (b * 4096 + 4096).min(size) - b * 4096).sum()
            };
            for (start, len) in writes {
                let range = ObjectRange::at(start, len).clamp_to(size);
                let before = bytes(&model);
                for (b, set) in (0u64..).zip(model.iter_mut()) {
                    *set |= range.start() <= b * 4096 && (b * 4096 + 4096).min(size) <= range.end();
                }
                prop_assert_eq!(map.set(range), bytes(&model) - before);
            }
            prop_assert_eq!(map.present_bytes(), bytes(&model));
            for (start, len) in asks {
                let want = ObjectRange::at(start, len);
                if start >= size {
                    prop_assert_eq!(map.probe(want), Run::Hole { until: u64::MAX });
                    continue;
                }
                let first = usize::try_from(start / 4096).expect("small");
                let limit = usize::try_from(BLOCK.count(want.end().min(size))).expect("small").max(first + 1);
                let run = model[first..limit].iter().take_while(|&&b| b == model[first]).count();
                let until = ((first + run) as u64 * 4096).min(size);
                let expected = if model[first] { Run::Present { until } } else { Run::Hole { until } };
                prop_assert_eq!(map.probe(want), expected);
            }
        }

        #[test]
        fn retaining_clears_exactly_what_is_not_kept(
            map in proptest::collection::vec(any::<bool>(), 1..200),
            keep in proptest::collection::vec(any::<u64>(), 0..4),
        ) {
            let size = map.len() as u64 * 4096 - 7;
            let words = words_of(&map);
            let presence = Presence::new(&words, size, BLOCK).expect("sized");
            let before = presence.present_bytes();
            let old = presence.snapshot();
            let lost = presence.retain(&keep);
            prop_assert_eq!(before - lost, presence.present_bytes());
            for (index, word) in presence.snapshot().into_iter().enumerate() {
                prop_assert_eq!(word, old[index] & keep.get(index).copied().unwrap_or(0));
            }
        }
    }
}
