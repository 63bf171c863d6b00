//! [`Kept`]: what the keeper has of one mount of the kernel's EROFS, so that the next worker can take the mount up.

use std::os::fd::AsFd;
use std::path::Path;

use super::Superblock;
use crate::keeper::Holder;
use crate::target::{Spot, What};
use crate::{Error, Identity};

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
    on_plain_files: bool,
}

impl<'a> Kept<'a> {
    /// What `holder` has, or is to have, under `name`.
    pub(crate) fn new(holder: &'a dyn Holder, name: String) -> Self {
        Self { holder, name, on_plain_files: false }
    }

    /// The same, of a mount that nobody has to serve.
    pub(crate) fn of_plain_files(self) -> Self {
        Self { on_plain_files: true, ..self }
    }

    /// Keeps what is known of `superblock`: before anybody can read from it, so that none is ever mounted of which the next
    /// worker knows nothing.
    pub(super) fn keep(&self, superblock: &Superblock) -> Result<(), Error> {
        let superblock = superblock.clone().with_plain_files(self.on_plain_files);
        let kept = superblock.persist().and_then(|memfd| self.holder.keep(&self.name, memfd.as_fd()));
        kept.map_err(|source| Error::Keep { name: self.name.clone(), source })
    }

    /// Mount and superblock on `target`, if they can be taken up: a mount whose front end was not held is detached, because
    /// nobody has vouched for what was read there meanwhile; unless it is on plain files, which needs nobody. `identity` is what
    /// its record says of it; without that it is taken for ours, because what was read there may be zeros.
    ///
    /// What it was mounted with is held only if the mount is, too: a worker that finds nothing makes it anew, and may die
    /// before all mounts of the time before are detached. `leaving` gets the superblock of one that was detached while somebody
    /// may still read from it.
    pub(crate) fn take_up(
        &self,
        target: &Path,
        identity: &Identity,
        origin: Origin,
        leaving: impl FnOnce(Superblock),
    ) -> Result<(Spot, Superblock), Error> {
        let is_kept = self.holder.names().contains(&self.name);
        let found = Spot::find(target, What::Erofs, identity, false)?;
        let gone = || Error::Gone { target: target.to_owned() };
        // Once it is detached, nothing tells any more which one it was.
        let superblock = match is_kept {
            true => self.superblock()?,
            false => identity.superblock().unwrap_or_else(Superblock::any),
        };
        if is_kept && (origin == Origin::Inherited || superblock.on_plain_files) {
            return Ok((found.ok_or_else(gone)?, superblock.narrowed()));
        }
        found.as_ref().map_or(Ok(()), |spot| spot.unmount(true))?;
        if found.is_some() && !superblock.is_gone() {
            leaving(superblock);
        }
        self.release();
        Err(if found.is_some() { Error::Poisoned { target: target.to_owned() } } else { gone() })
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

    /// Has `holder` let go of all mounts whose names begin with `prefix`, but for those on plain files: what they stood on is
    /// gone. Before that is made anew and kept, so that no later worker takes the one for the other.
    pub(crate) fn release_all(holder: &'a dyn Holder, prefix: &str) {
        let on_plain_files =
            |name: &String| Superblock::kept(holder, name).is_ok_and(|superblock| superblock.on_plain_files);
        let names = holder.names();
        for name in names.iter().filter(|name| name.starts_with(prefix) && !on_plain_files(name)) {
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
