//! [`Window`]: one request's bytes on their way to its readers.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use larder_fscache::ObjectRange;
use tokio::sync::Notify;

use crate::Error;
use crate::budget::Share;

/// One request's bytes on their way to its readers. Parts are unlocked one by one.
#[derive(Debug)]
pub(crate) struct Window {
    range: ObjectRange,
    state: Mutex<State>,
    changed: Notify,
    _share: Share,
}

#[derive(Debug, Default)]
struct State {
    /// By first byte; parts do not overlap.
    parts: BTreeMap<u64, Unlocked>,
    is_finished: bool,
    has_failed: bool,
    delivered: u64,
    /// Copies to the cache that are still to be made: until then only this window has the bytes.
    copies: usize,
}

#[derive(Debug)]
enum Unlocked {
    Here(Bytes),
    Failed { end: u64, error: Error },
}

/// What a window has of a range.
#[derive(Debug)]
pub(crate) enum Gathered {
    /// All of it, in order.
    Ready,
    /// Some of it is still to come.
    Waits,
    /// Some of it will not come.
    Failed(Error),
}

impl Window {
    pub(crate) fn new(range: ObjectRange, share: Share) -> Self {
        Self { range, state: Mutex::default(), changed: Notify::new(), _share: share }
    }

    pub(crate) fn range(&self) -> ObjectRange {
        self.range
    }

    pub(crate) fn covers(&self, at: u64) -> bool {
        (self.range.start()..self.range.end()).contains(&at)
    }

    /// Told whenever a part is unlocked.
    pub(crate) fn changed(&self) -> &Notify {
        &self.changed
    }

    /// Unlocks bytes from `at` on.
    pub(crate) fn deliver(&self, at: u64, bytes: Bytes) {
        self.lock().parts.insert(at, Unlocked::Here(bytes));
        self.changed.notify_waiters();
    }

    /// Unlocks a range that will not come.
    pub(crate) fn fail(&self, range: ObjectRange, error: Error) {
        let mut state = self.lock();
        state.has_failed = true;
        state.parts.insert(range.start(), Unlocked::Failed { end: range.end(), error });
        drop(state);
        self.changed.notify_waiters();
    }

    /// Says that nothing more comes.
    pub(crate) fn finish(&self) {
        self.lock().is_finished = true;
        self.changed.notify_waiters();
    }

    /// Whether nothing more comes, and nothing is still to be copied from here.
    pub(crate) fn is_at_rest(&self) -> bool {
        let state = self.lock();
        state.is_finished && state.copies == 0
    }

    /// Whether the window has done its work: all of it was handed out, or what failed is to be tried again.
    pub(crate) fn is_spent(&self) -> bool {
        let state = self.lock();
        state.is_finished && (state.has_failed || (state.copies == 0 && state.delivered >= self.range.len()))
    }

    /// Says that a copy to the cache is to be made.
    pub(crate) fn copy_begins(&self) {
        self.lock().copies += 1;
    }

    /// Says that one of them was made, or left out.
    pub(crate) fn copy_ends(&self) {
        self.lock().copies -= 1;
    }

    /// Copies that are still to be made.
    #[cfg(test)]
    pub(crate) fn copies(&self) -> usize {
        self.lock().copies
    }

    /// Whether `want` is here, or something of it will not come.
    pub(crate) fn is_unlocked(&self, want: ObjectRange) -> bool {
        let state = self.lock();
        let mut at = want.start();
        while at < want.end() && !state.is_finished {
            match state.parts.range(..=at).next_back() {
                Some((start, Unlocked::Here(bytes))) if at < start + bytes.len() as u64 => {
                    at = start + bytes.len() as u64;
                }
                Some((_, Unlocked::Failed { end, .. })) if at < *end => return true,
                _ => return false,
            }
        }
        true
    }

    /// Adds the pieces that `want`, which lies within the window, consists of.
    pub(crate) fn gather(&self, want: ObjectRange, pieces: &mut Vec<Bytes>) -> Gathered {
        let mut state = self.lock();
        let (before, mut at) = (pieces.len(), want.start());
        while at < want.end() {
            let (piece, end) = match state.parts.range(..=at).next_back() {
                Some((start, Unlocked::Here(bytes))) if at < start + bytes.len() as u64 => {
                    let end = (start + bytes.len() as u64).min(want.end());
                    let index = |offset: u64| usize::try_from(offset - start).expect("no longer than a part");
                    (bytes.slice(index(at)..index(end)), end)
                }
                Some((_, Unlocked::Failed { end, error })) if at < *end => {
                    let error = error.clone();
                    pieces.truncate(before);
                    return Gathered::Failed(error);
                }
                _ => {
                    pieces.truncate(before);
                    return Gathered::Waits;
                }
            };
            pieces.push(piece);
            at = end;
        }
        state.delivered += want.len();
        Gathered::Ready
    }

    /// Nothing panics while it holds the lock, and what it guards is sound at any moment.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budget;

    fn window() -> Window {
        Window::new(ObjectRange::at(100, 50), Budget::new(1).take(50))
    }

    fn text(pieces: &[Bytes]) -> Vec<u8> {
        pieces.concat()
    }

    #[test]
    fn a_part_is_handed_out_while_others_are_still_to_come() {
        let window = window();
        window.deliver(110, Bytes::from_static(b"0123456789"));
        let mut pieces = Vec::new();
        assert!(matches!(window.gather(ObjectRange::at(112, 5), &mut pieces), Gathered::Ready));
        assert_eq!(text(&pieces), b"23456");
        assert!(matches!(window.gather(ObjectRange::at(109, 5), &mut pieces), Gathered::Waits));
        assert!(matches!(window.gather(ObjectRange::at(115, 6), &mut pieces), Gathered::Waits));
        assert_eq!(text(&pieces), b"23456", "what could not be gathered whole left nothing behind");
        window.deliver(120, Bytes::from_static(b"abc"));
        assert!(matches!(window.gather(ObjectRange::at(119, 3), &mut pieces), Gathered::Ready));
        assert_eq!(text(&pieces), b"234569ab");
    }

    #[test]
    fn a_failed_part_fails_only_those_who_want_it() {
        let window = window();
        window.deliver(100, Bytes::from_static(b"0123456789"));
        let failed = ObjectRange::at(110, 40);
        window.fail(failed, Error::NoProgress { file: "f".into(), range: failed });
        window.finish();
        let mut pieces = Vec::new();
        assert!(matches!(window.gather(ObjectRange::at(100, 10), &mut pieces), Gathered::Ready));
        assert!(matches!(window.gather(ObjectRange::at(105, 6), &mut pieces), Gathered::Failed(_)));
        assert!(window.is_spent(), "so that the next read tries again");
    }
}
