//! [`Mounts`]: which mounts the kernel still has, and the names of their objects.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::names::{Names, User};
use crate::erofs::Superblock;

/// The mounts of this front end; one that was taken away stays as long as somebody reads from it.
#[derive(Default)]
pub(super) struct Mounts {
    names: Names,
    next: AtomicU64,
    live: Mutex<Vec<Live>>,
}

struct Live {
    user: User,
    superblock: Superblock,
    /// Taken away: to be forgotten with its superblock.
    leaving: bool,
}

impl Mounts {
    pub(super) fn names(&self) -> &Names {
        &self.names
    }

    /// A number for a new mount.
    pub(super) fn new_user(&self) -> User {
        User(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// The mount is made.
    pub(super) fn add(&self, user: User, superblock: Superblock) {
        self.lock().push(Live { user, superblock, leaving: false });
    }

    /// The mount was taken away.
    pub(super) fn take_away(&self, user: User) {
        if let Some(live) = self.lock().iter_mut().find(|live| live.user == user) {
            live.leaving = true;
        }
        self.release_what_is_gone();
    }

    /// Whether the kernel has the mount no more.
    pub(super) fn is_gone(&self, user: User) -> bool {
        self.release_what_is_gone();
        !self.lock().iter().any(|live| live.user == user)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Forgets the mounts that were taken away and whose superblocks are gone.
    pub(super) fn release_what_is_gone(&self) {
        let gone = |live: &mut Live| live.leaving && live.superblock.is_gone();
        for live in self.lock().extract_if(.., gone) {
            self.names.leave(live.user);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_forgotten_when_it_was_taken_away_and_nobody_reads_from_it_any_more() {
        let mounts = Mounts::default();
        let (one, other) = (mounts.new_user(), mounts.new_user());
        mounts.add(one, Superblock::named("erofs-no-such"));
        mounts.add(other, Superblock::default());
        assert!(!mounts.is_gone(one), "nobody has taken it away");
        mounts.take_away(one);
        mounts.take_away(other);
        assert!(mounts.is_gone(one));
        assert!(!mounts.is_gone(other), "nothing is known about its superblock");
        assert!(!mounts.is_empty());
    }
}
