//! [`Grace`]: how long questions of mounts that nobody has taken up yet wait.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a worker may take for one mount: it takes them up one after the other.
const FOR_ONE: Duration = Duration::from_secs(60);

/// Time that a worker has to take up the mounts of an earlier one, after which nobody waits for the others. It begins again with
/// each mount: the last of many is no reason for an error to its readers. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Grace {
    begun: Arc<Mutex<Instant>>,
}

impl Grace {
    /// Begins now.
    pub(crate) fn new() -> Self {
        Self { begun: Arc::new(Mutex::new(Instant::now())) }
    }

    /// The next mount has its turn.
    pub(crate) fn begin_again(&self) {
        *self.lock() = Instant::now();
    }

    /// What is left of it; nothing when it is over.
    pub(crate) fn left(&self) -> Duration {
        FOR_ONE.saturating_sub(self.lock().elapsed())
    }

    /// Whether it is over.
    pub(crate) fn is_over(&self) -> bool {
        self.left().is_zero()
    }

    fn lock(&self) -> MutexGuard<'_, Instant> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mount_has_all_of_it() {
        let grace = Grace::new();
        assert!(!grace.is_over());
        let Some(long_ago) = Instant::now().checked_sub(FOR_ONE) else {
            return println!("skipped: this machine has just been started");
        };
        *grace.lock() = long_ago;
        assert!(grace.is_over());
        grace.clone().begin_again();
        assert!(!grace.is_over());
    }
}
