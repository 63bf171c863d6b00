//! [`Openings`]: whether the kernel asks when a directory of an image is opened, and which listings it keeps.
//!
//! While OPENDIR is answered, each answer says whether the kernel keeps the listing in its page cache. Once it is refused,
//! the kernel keeps them all, for the rest of the mount, and neither OPENDIR nor RELEASEDIR comes again (fs/fuse/file.c,
//! `fuse_file_open()`; fs/fuse/readdir.c, v6.18). Keeping an entry costs the kernel about 150 ns, as much as all else that it
//! does for it, and most directories are listed once or never; but the two requests cost about 10 µs, as much as keeping
//! some sixty entries. So an image is asked for as long as its directories are large.

use std::sync::atomic::{AtomicU64, Ordering};

use super::file_system::{NodeId, OpenedDir};

/// What an opening costs, in entries that the kernel does not have to keep.
const OPENING: u64 = 64;
/// What openings may have cost more than they saved before they are refused.
const LOSS_MAX: u64 = 64 * OPENING;
/// Directories that are remembered as opened; a power of two.
const REMEMBERED: usize = 256;

/// What a mount's directories have cost and saved so far.
#[derive(Debug)]
pub(super) struct Openings {
    /// In entries; what was saved before it was spent does not count.
    loss: AtomicU64,
    /// The last directory that was opened of those that have this place; 0 is no node.
    opened: Box<[AtomicU64]>,
}

impl Default for Openings {
    fn default() -> Self {
        Self { loss: AtomicU64::new(0), opened: (0..REMEMBERED).map(|_| AtomicU64::new(0)).collect() }
    }
}

impl Openings {
    /// A directory is opened: what the kernel is told, or `None` when it had better not ask any more. Its listing is kept
    /// from the second opening on, as long as the kernel remembers the directory.
    pub fn open(&self, node: NodeId) -> Option<OpenedDir> {
        if self.loss.fetch_add(OPENING, Ordering::Relaxed) >= LOSS_MAX {
            return None;
        }
        let before = self.place(node).swap(node.0, Ordering::Relaxed);
        Some(OpenedDir { handle: 0, keep_cache: true, list_cache: before == node.0 })
    }

    /// So many entries were listed.
    pub fn listed(&self, entries: u64) {
        let less = |loss: u64| Some(loss.saturating_sub(entries));
        let _ = self.loss.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// The kernel has dropped a node, and with a directory all that it kept of it: it is not opened all the time.
    pub fn forget(&self, node: NodeId) {
        let _ = self.place(node).compare_exchange(node.0, 0, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn place(&self, node: NodeId) -> &AtomicU64 {
        // Fibonacci hashing: ids of neighbours differ by small multiples. The upper byte is one of the 256 places.
        let hash = node.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
        &self.opened[usize::try_from(hash).unwrap_or(0) % REMEMBERED]
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
    fn small_directories_end_it_for_good() {
        let openings = Openings::default();
        let answered = (0..1000).take_while(|node| {
            openings.listed(3);
            open(&openings, node + 1).is_some()
        });
        let answered = answered.count();
        assert!((64..80).contains(&answered), "{answered}");
        openings.listed(0);
        assert_eq!(open(&openings, 5000), None);
    }

    #[test]
    fn large_directories_are_asked_for_as_long_as_there_are_enough() {
        let openings = Openings::default();
        for node in 1..2000 {
            assert!(open(&openings, node).is_some(), "{node}");
            openings.listed(if node % 10 == 0 { 1000 } else { 0 });
        }
        // What was saved long ago pays for nothing.
        assert!((2000..2200).any(|node| open(&openings, node).is_none()));
    }

    #[test]
    fn directories_that_are_opened_again_and_again_are_the_kernels_in_the_end() {
        let openings = Openings::default();
        openings.listed(10_000);
        assert!((0..100).any(|_| open(&openings, 7).is_none()));
    }
}
