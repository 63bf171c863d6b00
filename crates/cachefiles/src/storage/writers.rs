//! [`Writers`]: the threads that write to one file take turns without spinning.

use std::sync::{Mutex, MutexGuard, TryLockError};

/// Looks for a turn, at most: whoever has it may have been stopped, or wait for the disk, and where no other thread wants the
/// processor a look takes nearly no time. The kernel's own lock is waited for then.
const LOOKS: u32 = 64;

/// Who writes to a file.
///
/// Most file systems let one write to a file at a time. The kernel has the next one spin for that (`rwsem_spin_on_owner` in
/// kernel/locking/rwsem.c), as long as the first one runs: on a processor on which another thread had bytes to verify. A lock
/// that sleeps would wake the next one too late, since a write takes some 30 microseconds. So whoever waits lets others run, and
/// looks again.
#[derive(Debug, Default)]
pub(super) struct Writers(Mutex<()>);

impl Writers {
    /// Waits for the turn to write, but not for long: without one the kernel's lock does.
    pub fn turn(&self) -> Option<MutexGuard<'_, ()>> {
        for _ in 0..LOOKS {
            match self.0.try_lock() {
                Ok(turn) => return Some(turn),
                // Nothing is behind it that a panic could leave half done.
                Err(TryLockError::Poisoned(turn)) => return Some(turn.into_inner()),
                Err(TryLockError::WouldBlock) => std::thread::yield_now(),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_the_turn_and_the_others_do_not_wait_for_ever() {
        let writers = Writers::default();
        let turn = writers.turn();
        assert!(turn.is_some());
        assert!(writers.turn().is_none());
        drop(turn);
        assert!(writers.turn().is_some());
    }

    #[test]
    fn p4_a_writer_that_panicked_holds_nobody_up() {
        let writers = Writers::default();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _turn = writers.turn();
            panic!("on purpose");
        }));
        assert!(panicked.is_err() && writers.turn().is_some());
    }
}
