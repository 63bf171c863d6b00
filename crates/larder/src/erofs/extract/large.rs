//! [`Large`]: a file that is filled in pieces, by one thread as long as the others have something else to do.
//!
//! Threads that write to one file wait for each other: the kernel lets one at a time, and the others spin. So a large file
//! belongs to the thread that began it. What is left of it when nothing else is, all threads share: the decoding is
//! worth it.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::copy::Buffer;
use super::file::OpenFile;

/// Pieces have at least this size.
pub(super) const PIECE_BYTES: u64 = 16 << 20;
/// A file has at most so many pieces, whatever size it claims.
const PIECES_MAX: u64 = 1024;

/// A file with the place of the next piece that nobody has taken.
pub(super) struct Large<'a> {
    file: OpenFile<'a>,
    pieces: Pieces,
}

impl<'a> Large<'a> {
    /// `size` is that of the file in bytes.
    pub fn new(file: OpenFile<'a>, size: u64) -> Self {
        Self { file, pieces: Pieces::new(size) }
    }

    /// Fills pieces until each has been taken; other threads may still be at theirs.
    pub fn fill(&self, buffer: &mut Buffer) {
        while self.fill_piece(buffer) {}
    }

    /// Fills one piece; `false` when each has been taken.
    pub fn fill_piece(&self, buffer: &mut Buffer) -> bool {
        if let Some(piece) = self.pieces.take() {
            self.file.fill(piece.start, piece.end, buffer);
        }
        !self.pieces.all_taken()
    }
}

/// The pieces of a file, each to be had once.
struct Pieces {
    size: u64,
    piece: u64,
    next: AtomicU64,
}

impl Pieces {
    fn new(size: u64) -> Self {
        Self { size, piece: PIECE_BYTES.max(size.div_ceil(PIECES_MAX)), next: AtomicU64::new(0) }
    }

    fn all_taken(&self) -> bool {
        self.next.load(Ordering::Relaxed) >= self.size
    }

    fn take(&self) -> Option<Range<u64>> {
        let next = |start: u64| (start < self.size).then(|| start.saturating_add(self.piece).min(self.size));
        let start = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).ok()?;
        Some(start..next(start)?)
    }
}

/// The large files that are being filled. It holds none of them: a file gets its attributes as soon as it is filled.
#[derive(Default)]
pub(super) struct UnderWay<'a>(Mutex<Vec<Weak<Large<'a>>>>);

impl<'a> UnderWay<'a> {
    /// Adds a file.
    pub fn add(&self, large: &Arc<Large<'a>>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|other| other.strong_count() > 0);
        all.push(Arc::downgrade(large));
    }

    /// Helps until all pieces of all files have been taken.
    pub fn help(&self, buffer: &mut Buffer) {
        while let Some(large) = self.next() {
            large.fill(buffer);
        }
    }

    fn next(&self) -> Option<Arc<Large<'a>>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(Weak::upgrade).find(|large| !large.pieces.all_taken())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_follow_each_other_to_the_end() {
        for size in [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 40 * PIECE_BYTES - 3, u64::MAX] {
            let pieces = Pieces::new(size);
            let (mut at, mut count) = (0, 0);
            while let Some(piece) = pieces.take() {
                assert!(piece.start == at && piece.end > at, "{piece:?} of {size}");
                (at, count) = (piece.end, count + 1);
            }
            assert_eq!(at, size);
            assert!(pieces.all_taken());
            assert!(count <= PIECES_MAX, "{count} of {size}");
        }
    }
}
