//! [`Openings`]: whether the kernel asks when a directory of an image is opened, and which listings it keeps.
//!
//! While OPENDIR is answered, each answer says whether the kernel keeps the listing in its page cache. Once it is refused,
//! the kernel keeps them all, for the rest of the mount, and OPENDIR does not come again (fs/fuse/file.c,
//! `fuse_file_open()`; fs/fuse/readdir.c, v6.18). Keeping an entry costs the kernel about 150 ns, as much as all else that it
//! does for it, and most directories are listed once or never; but OPENDIR and RELEASEDIR cost about 10 µs, as much as
//! keeping some sixty entries. So an image is asked for as long as its directories are large.

use std::sync::atomic::{AtomicU64, Ordering};

use super::file_system::{NodeId, OpenedDir};

/// What an opening costs, in entries that the kernel does not have to keep.
const OPENING: u64 = 64;
/// What openings may have cost before they are refused.
const LOSS_MAX: u64 = 64 * OPENING;
/// Words of the bits that directories have: 2 KiB a mount.
const WORDS_LOG2: u32 = 8;

/// The handle of a directory whose listing is not kept.
const PASSING: u64 = 0;
/// The handle of one whose listing is kept.
const KEPT: u64 = 1;

/// What a mount's directories have cost and saved lately, and which were opened.
#[derive(Debug)]
pub(super) struct Openings {
    /// What openings have cost and no entries have paid for since, in entries.
    loss: AtomicU64,
    /// A bit for each directory that was opened. It shares it with other nodes: with directories, which keeps a listing an
    /// opening early, and with any that is forgotten, which keeps one an opening late.
    opened: [AtomicU64; 1 << WORDS_LOG2],
}

impl Default for Openings {
    fn default() -> Self {
        Self { loss: AtomicU64::new(0), opened: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

impl Openings {
    /// A directory is opened: what the kernel is told, or `None` when it had better not ask any more. Its listing is kept
    /// from the second opening on, as long as the kernel remembers the directory.
    pub fn open(&self, node: NodeId) -> Option<OpenedDir> {
        if self.loss.fetch_add(OPENING, Ordering::Relaxed) >= LOSS_MAX {
            return None;
        }
        let (word, bit) = self.place(node);
        let list_cache = word.fetch_or(bit, Ordering::Relaxed) & bit != 0;
        let handle = if list_cache { KEPT } else { PASSING };
        Some(OpenedDir { handle, keep_cache: true, list_cache })
    }

    /// So many entries were listed through an opening.
    pub fn listed(&self, handle: u64, entries: u64) {
        if handle == PASSING {
            let less = |loss: u64| Some(loss.saturating_sub(entries));
            let _ = self.loss.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }

    /// The kernel has dropped a node, and with a directory all that it kept of it: it is not opened all the time.
    pub fn forget(&self, node: NodeId) {
        let (word, bit) = self.place(node);
        if word.load(Ordering::Relaxed) & bit != 0 {
            word.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    fn place(&self, node: NodeId) -> (&AtomicU64, u64) {
        // Fibonacci hashing: ids of neighbours differ by small multiples.
        let hash = node.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let word = usize::try_from(hash >> (64 - WORDS_LOG2)).unwrap_or(0);
        let bit = hash >> (64 - WORDS_LOG2 - 6) & 63;
        (&self.opened[word], 1 << bit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(openings: &Openings, node: u64) -> Option<bool> {
        openings.open(NodeId(node)).map(|opened| opened.list_cache)
    }

    #[test]
    fn a_listing_is_kept_from_the_second_opening_on() {
        let openings = Openings::default();
        let kept = [1, 70, 1, 70, 1].map(|node| open(&openings, node));
        assert_eq!(kept, [false, false, true, true, true].map(Some));
        openings.forget(NodeId(70));
        openings.forget(NodeId(71));
        assert_eq!([1, 70, 70].map(|node| open(&openings, node)), [true, false, true].map(Some));
    }

    #[test]
    fn directories_opened_in_turn_do_not_push_each_other_out() {
        let openings = Openings::default();
        let nodes = (0..1000).map(|n| NodeId(2 + n * 40));
        let kept = |node| {
            let opened = openings.open(node).expect("large ones");
            openings.listed(PASSING, 1000);
            opened.list_cache
        };
        let early = nodes.clone().filter(|node| kept(*node)).count();
        assert!(early < 100, "{early}");
        assert_eq!(nodes.filter(|node| kept(*node)).count(), 1000);
    }

    #[test]
    fn small_directories_end_it() {
        let openings = Openings::default();
        let answered = (0..1000).take_while(|node| {
            openings.listed(PASSING, 3);
            open(&openings, node + 1).is_some()
        });
        let answered = answered.count();
        assert!((64..80).contains(&answered), "{answered}");
    }

    #[test]
    fn large_directories_are_asked_for_as_long_as_there_are_enough() {
        let openings = Openings::default();
        for node in 1..2000 {
            assert!(open(&openings, node).is_some(), "{node}");
            openings.listed(PASSING, if node % 10 == 0 { 1000 } else { 0 });
        }
        // What was saved long ago pays for nothing.
        assert!((2000..2200).any(|node| open(&openings, node).is_none()));
    }

    #[test]
    fn what_the_kernel_keeps_saves_it_nothing() {
        let openings = Openings::default();
        let answered = (0..1000).map_while(|_| openings.open(NodeId(7)));
        let answered = answered.map(|opened| openings.listed(opened.handle, 10_000)).count();
        assert!((60..70).contains(&answered), "{answered}");
    }
}
