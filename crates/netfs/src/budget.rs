//! [`Budget`]: how much memory all windows may take together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How much memory all windows may take together.
#[derive(Debug)]
pub(crate) struct Budget {
    max: u64,
    used: AtomicU64,
}

/// A share of the budget, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Budget {
    pub(crate) fn new(max: u64) -> Arc<Self> {
        Arc::new(Self { max, used: AtomicU64::new(0) })
    }

    /// Takes `bytes` unless that is more than is left.
    pub(crate) fn try_take(self: &Arc<Self>, bytes: u64) -> Option<Share> {
        let share = self.take(bytes);
        (self.used.load(Ordering::Relaxed) <= self.max).then_some(share)
    }

    /// Takes `bytes` in any case: a reader waits for them, and the kernel bounds how many readers there are.
    pub(crate) fn take(self: &Arc<Self>, bytes: u64) -> Share {
        self.used.fetch_add(bytes, Ordering::Relaxed);
        Share { budget: Arc::clone(self), bytes }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_can_be_taken_again_and_readers_are_never_refused() {
        let budget = Budget::new(100);
        let first = budget.try_take(60).expect("fits");
        assert!(budget.try_take(41).is_none());
        drop(budget.try_take(40).expect("what was refused was not kept"));
        drop(budget.take(1000));
        drop(first);
        budget.try_take(100).expect("all of it");
    }
}
