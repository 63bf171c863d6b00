//! Superblocks that outlive their unmounting: somebody else still uses them, in another namespace or detached.
//!
//! Until one is gone its blobs must stay marked and answered for.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

use crate::Error;
use crate::erofs::Superblock;
use crate::keeper::Holder;
use crate::mounts::User;

/// The list's name with the keeper.
const RETIRING: &str = "retiring";

/// Mounts that were taken away while their superblocks live on.
#[derive(Default)]
pub(super) struct Retiring {
    waiting: Mutex<Vec<(User, Superblock)>>,
}

impl Retiring {
    /// Puts the mount `user` on the list.
    pub(super) fn add(&self, user: User, superblock: Superblock) {
        self.lock().push((user, superblock));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Puts the mount `user` on the list, and writes that down with `holder`: a successor must not end while somebody
    /// still reads.
    pub(super) fn add_and_keep(
        &self,
        user: User,
        superblock: Superblock,
        holder: &dyn Holder,
    ) -> io::Result<()> {
        let mut waiting = self.lock();
        waiting.push((user, superblock));
        let memfd = Superblock::all_of(waiting.iter().map(|(_, superblock)| superblock)).persist()?;
        // Under the lock, so that no older list takes the place of a newer one.
        holder.keep(RETIRING, memfd.as_fd())
    }

    /// Takes up the list of an earlier worker, as one entry: which blobs they use is not known any more, and whoever
    /// asks for one of them is denied.
    ///
    /// # Errors
    ///
    /// [`Error::Take`].
    pub(super) fn take_up(&self, holder: &dyn Holder) -> Result<(), Error> {
        let superblock = Superblock::kept(holder, RETIRING)?;
        if !superblock.is_none() && !superblock.is_gone() {
            self.add(User::new(), superblock);
        }
        Ok(())
    }

    /// Forgets the mounts whose superblocks have gone, and returns them.
    pub(super) fn take_what_is_gone(&self) -> Vec<User> {
        let gone = |(_, superblock): &mut (User, Superblock)| superblock.is_gone();
        self.lock().extract_if(.., gone).map(|(user, _)| user).collect()
    }

    /// Whether there is a mount for which `is_strange` holds.
    pub(super) fn has_any(&self, is_strange: impl Fn(User) -> bool) -> bool {
        self.lock().iter().any(|(user, _)| is_strange(*user))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(User, Superblock)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;

    #[derive(Default)]
    struct OneSlot(Mutex<Option<OwnedFd>>);

    impl Holder for OneSlot {
        fn keep(&self, _: &str, fd: std::os::fd::BorrowedFd<'_>) -> io::Result<()> {
            *self.0.lock().unwrap() = Some(fd.try_clone_to_owned()?);
            Ok(())
        }

        fn take(&self, _: &str) -> io::Result<Option<OwnedFd>> {
            self.0.lock().unwrap().as_ref().map(OwnedFd::try_clone).transpose()
        }

        fn release(&self, _: &str) {}

        fn names(&self) -> Vec<String> {
            Vec::new()
        }
    }

    #[test]
    fn p1_a_successor_knows_which_detached_mounts_may_still_be_read() {
        let holder = OneSlot::default();
        let retiring = Retiring::default();
        for name in ["erofs-no-such", "erofs-nor-this"] {
            retiring.add_and_keep(User::new(), Superblock::named(name), &holder).unwrap();
        }
        let kept = Superblock::kept(&holder, RETIRING).unwrap();
        assert_eq!(kept.names(), ["erofs-no-such", "erofs-nor-this"]);
        let successor = Retiring::default();
        successor.take_up(&holder).unwrap();
        assert!(successor.is_empty(), "both are gone by now");
    }
}
