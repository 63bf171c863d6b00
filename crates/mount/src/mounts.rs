//! [`Mounts`]: which mounts of a front end the kernel still has, and the names of what they are made of.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use larder_ondemand::Blob;

use crate::erofs::{Kept, Superblock};
use crate::keeper::Holder;
use crate::target::Spot;
use crate::{Error, Identity, Mounted};

/// One mount, as the tables of a front end know it; never reused. Not the mount's id: what failed to mount under an id
/// that is in use must not take anything from the mount that lives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct User(u64);

impl User {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// The names by which the kernel asks for what mounts are made of.
pub(crate) trait Names {
    /// Forgets the mount `user`. The kernel must not ask for anything of it any more.
    fn leave(&self, user: User);
}

/// The mounts of a front end; one that was taken away stays as long as somebody reads from it.
#[derive(Debug, Default)]
pub(crate) struct Mounts<N> {
    names: N,
    live: Mutex<Vec<Live>>,
}

#[derive(Debug)]
struct Live {
    user: User,
    superblock: Superblock,
    /// Taken away: to be forgotten with its superblock.
    leaving: bool,
}

impl<N: Names> Mounts<N> {
    pub(crate) fn new(names: N) -> Self {
        Self { names, live: Mutex::default() }
    }

    pub(crate) fn names(&self) -> &N {
        &self.names
    }

    /// The mount is made.
    pub(crate) fn add(&self, user: User, superblock: Superblock) {
        self.lock().push(Live { user, superblock, leaving: false });
    }

    /// A mount was taken away that this process has never known.
    pub(crate) fn add_leaving(&self, superblock: Superblock) {
        self.lock().push(Live { user: User::new(), superblock, leaving: true });
    }

    /// The mount was taken away.
    pub(crate) fn take_away(&self, user: User) {
        if let Some(live) = self.lock().iter_mut().find(|live| live.user == user) {
            live.leaving = true;
        }
        self.release_what_is_gone();
    }

    /// Whether the kernel has the mount no more.
    pub(crate) fn is_gone(&self, user: User) -> bool {
        self.release_what_is_gone();
        !self.lock().iter().any(|live| live.user == user)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Forgets the mounts that were taken away and whose superblocks are gone.
    pub(crate) fn release_what_is_gone(&self) {
        let gone = |live: &mut Live| live.leaving && live.superblock.is_gone();
        for live in self.lock().extract_if(.., gone) {
            self.names.leave(live.user);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who answers for the names of mounts.
pub(crate) trait Answers: Send + Sync {
    /// The names.
    type Names: Names;

    /// The mounts.
    fn mounts(&self) -> &Mounts<Self::Names>;

    /// Questions that wait for bytes.
    fn waiting(&self) -> usize;
}

/// A mount of the kernel's EROFS on names that a front end answers for.
pub(crate) struct NamedMount<A> {
    pub(crate) answers: Arc<A>,
    pub(crate) holder: Arc<dyn Holder>,
    /// What the keeper calls it.
    pub(crate) kept_name: String,
    pub(crate) user: User,
    pub(crate) spot: Spot,
    pub(crate) superblock: Superblock,
}

impl<A: Answers> Mounted for NamedMount<A> {
    fn target(&self) -> &Path {
        self.spot.target()
    }

    fn identity(&self) -> Identity {
        self.spot.identity(Some(&self.superblock))
    }

    fn unmount(&self, lazy: bool) -> Result<(), Error> {
        // By its device number alone, another one would be taken away for it.
        if !self.identity().is_gone() {
            self.spot.unmount(lazy)?;
        }
        Kept::new(&*self.holder, self.kept_name.clone()).release();
        self.answers.mounts().take_away(self.user);
        Ok(())
    }

    fn is_gone(&self) -> bool {
        self.answers.mounts().is_gone(self.user)
    }

    /// The kernel asks only for what it does not have, and open files inside EROFS cannot be exchanged: a next mount goes to
    /// the plain files where the front end can do that.
    fn on_complete(&self, _: &Arc<Blob>) {}

    fn waiting(&self) -> usize {
        self.answers.waiting()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who has left.
    #[derive(Default)]
    struct Left(Mutex<Vec<User>>);

    impl Names for Left {
        fn leave(&self, user: User) {
            self.0.lock().unwrap().push(user);
        }
    }

    #[test]
    fn a_mount_is_forgotten_when_it_was_taken_away_and_nobody_reads_from_it_any_more() {
        let mounts = Mounts::new(Left::default());
        let (one, other) = (User::new(), User::new());
        mounts.add(one, Superblock::named("erofs-no-such"));
        mounts.add(other, Superblock::default());
        assert!(!mounts.is_gone(one), "nobody has taken it away");
        mounts.take_away(one);
        mounts.take_away(other);
        assert!(mounts.is_gone(one));
        assert_eq!(*mounts.names().0.lock().unwrap(), [one]);
        assert!(!mounts.is_gone(other), "nothing is known about its superblock");
        assert!(!mounts.is_empty());
    }
}
