//! [`InHand`]: requests that wait for bytes, and readers of theirs that were killed meanwhile.
//!
//! Once a request was read from /dev/fuse the kernel lets nobody go who waits for it, killed or not, but it tells that
//! there was a signal (`request_wait_answer()` in fs/fuse/dev.c, v6.18). A read that any signal could end would be an
//! error for a program that only has a timer running; so it is ended for the dead alone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Between two looks at a reader that had a signal: the next one may be the one that kills it.
pub(super) const LOOK: Duration = Duration::from_millis(50);
/// The bit of SIGKILL in a mask of signals.
const KILLED: u64 = 1 << (libc::SIGKILL - 1);

/// The requests that wait, by their numbers, and which threads made them. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct InHand {
    readers: Arc<Mutex<HashMap<u64, u32>>>,
}

impl InHand {
    /// Enters a request of the thread `pid`, until what is returned is dropped.
    pub(super) fn enter(&self, unique: u64, pid: u32) -> Waiting {
        self.lock().insert(unique, pid);
        Waiting { in_hand: self.clone(), unique }
    }

    /// Whether the request waits, and its reader was killed; `None` when it does not wait.
    pub(super) fn was_killed(&self, unique: u64) -> Option<bool> {
        let pid = *self.lock().get(&unique)?;
        // A thread that is gone does not wait; one of another process namespace, or none, cannot be looked at.
        Some(std::fs::read(format!("/proc/{pid}/status")).is_ok_and(|status| is_killed(&status)))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, u32>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    in_hand: InHand,
    unique: u64,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.in_hand.lock().remove(&self.unique);
    }
}

/// Whether SIGKILL waits for a thread: the line `SigPnd:` of /proc/PID/status.
fn is_killed(status: &[u8]) -> bool {
    let status = String::from_utf8_lossy(status);
    let pending = status.lines().find_map(|line| line.strip_prefix("SigPnd:"));
    let mask = pending.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & KILLED != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_thread_for_which_a_kill_waits_was_killed() {
        assert!(is_killed(b"Name:\tcat\nSigPnd:\t0000000000000100\nShdPnd:\t0000000000000000\n"));
        assert!(!is_killed(b"Name:\tcat\nSigPnd:\t0000000000002000\nShdPnd:\t0000000000000100\n"));
        assert!(!is_killed(b"Name:\tSigPnd:\t0000000000000100\n"));
        assert!(!is_killed(b""));
    }

    #[test]
    fn a_request_is_known_for_as_long_as_it_waits() {
        let in_hand = InHand::default();
        let waiting = in_hand.enter(7, std::process::id());
        assert_eq!(in_hand.was_killed(7), Some(false));
        drop(waiting);
        assert_eq!(in_hand.was_killed(7), None);
    }
}
