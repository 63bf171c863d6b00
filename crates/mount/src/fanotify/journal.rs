//! The journal: which questions the worker has in hand, in memory that outlives it.
//!
//! One slot for each event descriptor number, so that taking and clearing need no search and no lock:
//!
//! ```text
//! word 0 of the header  magic            slot word 0  state (0 free, 1 taken); written last
//! word 1                slots                 word 1  device
//! word 2                highest number        word 2  inode
//!                       ever taken + 1        word 3  offset
//!                                             word 4  length
//!                                             word 5  sequence
//! ```
//!
//! A slot is taken before anything is done about a question and cleared after its answer. What a dead worker had
//! taken is what its successor answers (kernel-interfaces A.12 tells why each part is needed).

use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use larder_fscache::ObjectRange;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

use super::blobs::FileId;
use crate::sys::memory::SharedWords;

const MAGIC: u64 = 0x4c41_5244_4a52_4e31;
const WORDS: usize = 8;
const FREE: u64 = 0;
const TAKEN: u64 = 1;

/// A question in hand.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Entry {
    /// The event descriptor's number in the process that took it.
    pub(super) number: RawFd,
    pub(super) file: FileId,
    pub(super) range: ObjectRange,
}

/// The journal, mapped.
pub(super) struct Journal {
    words: SharedWords,
    slots: usize,
    sequence: AtomicU64,
}

impl Journal {
    /// Makes an empty journal for the descriptor numbers below `slots`; returns also what the keeper is to hold.
    pub(super) fn create(slots: usize) -> io::Result<(Self, OwnedFd)> {
        let memfd = memfd_create("larder-journal", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&memfd, words_for(slots)? as u64 * 8)?;
        fcntl_add_seals(&memfd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let words = SharedWords::map(memfd.as_fd(), words_for(slots)?)?;
        words[1].store(slots as u64, Ordering::Relaxed);
        words[0].store(MAGIC, Ordering::Release);
        Ok((Self { words, slots, sequence: AtomicU64::new(0) }, memfd))
    }

    /// Maps the journal that an earlier worker made.
    pub(super) fn open(memfd: &OwnedFd) -> io::Result<Self> {
        let header = SharedWords::map(memfd.as_fd(), WORDS)?;
        let slots = usize::try_from(header[1].load(Ordering::Acquire)).unwrap_or(usize::MAX);
        if header[0].load(Ordering::Acquire) != MAGIC {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "this is no journal"));
        }
        let words = SharedWords::map(memfd.as_fd(), words_for(slots)?)?;
        Ok(Self { words, slots, sequence: AtomicU64::new(0) })
    }

    /// Numbers below this one have a slot.
    pub(super) fn slots(&self) -> usize {
        self.slots
    }

    /// Takes the slot of `entry`; false when its number has none.
    pub(super) fn take(&self, entry: &Entry) -> bool {
        let Some((index, slot)) = self.slot(entry.number) else { return false };
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let fields = [entry.file.device, entry.file.inode, entry.range.start(), entry.range.len(), sequence];
        for (word, value) in slot[1..].iter().zip(fields) {
            word.store(value, Ordering::Relaxed);
        }
        self.words[2].fetch_max(index as u64 + 1, Ordering::Relaxed);
        slot[0].store(TAKEN, Ordering::Release);
        true
    }

    /// Clears a slot after its question was answered.
    pub(super) fn clear(&self, number: RawFd) {
        if let Some((_, slot)) = self.slot(number) {
            slot[0].store(FREE, Ordering::Release);
        }
    }

    /// What is in hand, by ascending number.
    pub(super) fn taken(&self) -> Vec<Entry> {
        let used =
            usize::try_from(self.words[2].load(Ordering::Acquire)).unwrap_or(usize::MAX).min(self.slots);
        (0..used).filter_map(|index| self.entry(RawFd::try_from(index).ok()?)).collect()
    }

    fn entry(&self, number: RawFd) -> Option<Entry> {
        let (_, slot) = self.slot(number)?;
        if slot[0].load(Ordering::Acquire) != TAKEN {
            return None;
        }
        let word = |n: usize| slot[n].load(Ordering::Relaxed);
        let file = FileId { device: word(1), inode: word(2) };
        Some(Entry { number, file, range: ObjectRange::at(word(3), word(4)) })
    }

    fn slot(&self, number: RawFd) -> Option<(usize, &[AtomicU64])> {
        let index = usize::try_from(number).ok().filter(|&index| index < self.slots)?;
        let start = (index + 1) * WORDS;
        self.words.get(start..start + WORDS).map(|slot| (index, slot))
    }
}

fn words_for(slots: usize) -> io::Result<usize> {
    slots.checked_add(1).and_then(|n| n.checked_mul(WORDS)).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: RawFd) -> Entry {
        let file = FileId { device: 1 << 40, inode: number.unsigned_abs().into() };
        Entry { number, file, range: ObjectRange::at(4096, 8192) }
    }

    #[test]
    fn p4_a_successor_finds_what_was_taken_and_not_what_was_cleared() {
        let (journal, memfd) = Journal::create(100).unwrap();
        for number in [99, 3, 7] {
            assert!(journal.take(&entry(number)));
        }
        journal.clear(3);
        drop(journal);
        let successor = Journal::open(&memfd).unwrap();
        assert_eq!(successor.slots(), 100);
        assert_eq!(successor.taken(), [entry(7), entry(99)]);
        successor.clear(7);
        successor.clear(99);
        assert_eq!(successor.taken(), []);
    }

    #[test]
    fn a_number_without_slot_is_not_taken() {
        let (journal, _memfd) = Journal::create(10).unwrap();
        assert!(!journal.take(&entry(10)));
        assert!(!journal.take(&entry(-1)));
        journal.clear(10);
        assert_eq!(journal.taken(), []);
    }

    #[test]
    fn a_memfd_that_is_no_journal_or_lies_about_its_length_is_refused() {
        let (journal, memfd) = Journal::create(10).unwrap();
        journal.words[1].store(1 << 40, Ordering::Relaxed);
        assert!(Journal::open(&memfd).is_err());
        journal.words[1].store(10, Ordering::Relaxed);
        journal.words[0].store(0, Ordering::Relaxed);
        assert!(Journal::open(&memfd).is_err());
    }
}
