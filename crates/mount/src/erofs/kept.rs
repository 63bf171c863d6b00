//! [`Kept`]: what the keeper has of one mount of the kernel's EROFS, so that the next worker can take the mount up.

use std::os::fd::AsFd;
use std::path::Path;

use super::Superblock;
use crate::Error;
use crate::keeper::Holder;
use crate::target::{self, What};

/// Whether what a front end's mounts stand on was held all the time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Origin {
    /// Made by this process: what was mounted on an earlier one is lost.
    New,
    /// Held by the keeper.
    Inherited,
}

/// What the keeper has of one mount.
pub(crate) struct Kept<'a> {
    holder: &'a dyn Holder,
    name: String,
}

impl<'a> Kept<'a> {
    /// What `holder` has, or is to have, under `name`.
    pub(crate) fn new(holder: &'a dyn Holder, name: String) -> Self {
        Self { holder, name }
    }

    /// Keeps what is known of `superblock`: before anybody can read from it, so that none is ever mounted of which the next
    /// worker knows nothing.
    pub(super) fn keep(&self, superblock: &Superblock) -> Result<(), Error> {
        let kept = superblock.persist().and_then(|memfd| self.holder.keep(&self.name, memfd.as_fd()));
        kept.map_err(|source| Error::Keep { name: self.name.clone(), source })
    }

    /// The superblock of the mount on `target`, if it can be taken up: one whose front end was not held is detached, because
    /// nobody has vouched for what was read there meanwhile.
    ///
    /// What it was mounted with is held only if the mount is, too: a worker that finds nothing makes it anew, and may die
    /// before all mounts of the time before are detached. `leaving` gets the superblock of one that was detached while somebody
    /// may still read from it.
    pub(crate) fn take_up(
        &self,
        target: &Path,
        origin: Origin,
        leaving: impl FnOnce(Superblock),
    ) -> Result<Superblock, Error> {
        let is_kept = self.holder.names().contains(&self.name);
        if origin == Origin::New || !is_kept {
            // Once it is detached, nothing tells any more which one it was.
            let superblock = if is_kept { self.superblock()? } else { Superblock::any() };
            let detached = target::detach(target, What::Erofs)?;
            if detached && !superblock.is_gone() {
                leaving(superblock);
            }
            self.release();
            let target = target.to_owned();
            return Err(if detached { Error::Poisoned { target } } else { Error::Gone { target } });
        }
        if !target::has(target, What::Erofs)? {
            return Err(Error::Gone { target: target.to_owned() });
        }
        self.superblock()
    }

    /// Forgets a mount that was detached and never taken up; `leaving` gets its superblock when somebody may still read.
    pub(crate) fn abandon(self, leaving: impl FnOnce(Superblock) -> Result<(), Error>) -> Result<(), Error> {
        if self.holder.names().contains(&self.name) {
            let superblock = self.superblock()?;
            if !superblock.is_gone() {
                leaving(superblock)?;
            }
            self.release();
        }
        Ok(())
    }

    /// Has `holder` let go of all mounts whose names begin with `prefix`: what they stood on is gone. Before that is made anew
    /// and kept, so that no later worker takes the one for the other.
    pub(crate) fn release_all(holder: &'a dyn Holder, prefix: &str) {
        for name in holder.names().iter().filter(|name| name.starts_with(prefix)) {
            holder.release(name);
        }
    }

    /// Has the keeper let go of it.
    pub(crate) fn release(&self) {
        self.holder.release(&self.name);
    }

    fn superblock(&self) -> Result<Superblock, Error> {
        Superblock::kept(self.holder, &self.name)
    }
}
