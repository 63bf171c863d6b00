//! [`Commits`]: whether objects may be committed, and who is just doing it.

use std::sync::{PoisonError, RwLock, RwLockReadGuard};

/// The right to commit. It ends before a process leaves its live maps to the next one: a map that is left in the middle of a
/// sync is worth no more than what is durable.
#[derive(Debug, Default)]
pub(crate) struct Commits {
    /// Read by whoever commits, for as long as that takes.
    are_over: RwLock<bool>,
}

/// A commit under way.
pub(crate) struct Commit<'a>(
    #[expect(dead_code, reason = "held until the commit is done")] RwLockReadGuard<'a, bool>,
);

impl Commits {
    /// Begins a commit; `None` when there are to be no more.
    pub fn begin(&self) -> Option<Commit<'_>> {
        let are_over = self.are_over.read().unwrap_or_else(PoisonError::into_inner);
        (!*are_over).then_some(Commit(are_over))
    }

    /// Refuses every commit from now on, and waits for those under way.
    pub fn end(&self) {
        *self.are_over.write().unwrap_or_else(PoisonError::into_inner) = true;
    }

    pub fn are_over(&self) -> bool {
        self.begin().is_none()
    }
}
