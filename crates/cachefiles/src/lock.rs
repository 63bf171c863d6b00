//! [`Lock`]: one daemon a cache.
//!
//! A lock belongs to an open file, not to a process. The holder keeps that file open when a worker dies, so
//! nobody else gets in between, and the successor takes the very same lock over. Where nobody holds it, it is
//! unlocked by name and not by closing: a child that another thread is just starting has a copy of the file.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use larder_faults::{Site, check};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::is_full;
use crate::{DescriptorHolder, Error};

/// The lock's name with the holder, and its file below the root.
const NAME: &str = "lock";

/// The right to use a cache, given back on drop.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
    is_kept: bool,
}

impl Lock {
    /// Takes the lock of the cache at `root`, from the holder or from the file.
    pub fn take(root: &Path, holder: &dyn DescriptorHolder) -> Result<Self, Error> {
        let failed = |source| Error::Lock { root: root.to_owned(), source };
        let path = root.join(NAME);
        let options =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).clone();
        let on_disk = options.open(&path).map_err(failed)?;
        let file = inherited(&on_disk, holder).map_err(failed)?.unwrap_or(on_disk);
        check(Site::CachefilesLock).map_err(|errno| failed(errno.into()))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(Error::Locked { root: root.to_owned(), owner: owner(&path) });
            }
            Err(errno) => return Err(failed(errno.into())),
        }
        let written = file
            .set_len(0)
            .and_then(|()| file.write_all_at(format!("{}\n", std::process::id()).as_bytes(), 0));
        match written {
            // It is only for whoever is refused.
            Err(error) if is_full(&error) => tracing::warn!(%error, "the lock names nobody"),
            written => written.map_err(failed)?,
        }
        if let Err(error) = holder.keep(NAME, file.as_fd()) {
            tracing::warn!(%error, "the lock could not be handed to the keeper");
        }
        Ok(Self { file, is_kept: holder.keeps() })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if !self.is_kept {
            // Closing the file is what is left where this fails.
            let _ = flock(&self.file, FlockOperation::Unlock);
        }
    }
}

/// What the holder has, if it is the same file.
fn inherited(on_disk: &File, holder: &dyn DescriptorHolder) -> io::Result<Option<File>> {
    let Some(held) = holder.take(NAME)?.map(File::from) else { return Ok(None) };
    let (found, expected) = (held.metadata()?, on_disk.metadata()?);
    Ok(((found.dev(), found.ino()) == (expected.dev(), expected.ino())).then_some(held))
}

/// The process that the lock file names.
fn owner(path: &Path) -> Option<String> {
    let mut text = String::new();
    let read: io::Result<_> = File::open(path).and_then(|file| file.take(32).read_to_string(&mut text));
    read.ok()?;
    let pid: u32 = text.trim().parse().ok()?;
    Some(pid.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoHolder;
    use crate::holder::tests::MapHolder;

    #[test]
    fn a_second_daemon_is_refused_and_told_who_has_the_cache() {
        let root = tempfile::tempdir().expect("a directory");
        let first = Lock::take(root.path(), &NoHolder).expect("free");
        let refused = Lock::take(root.path(), &NoHolder).expect_err("taken");
        let pid = std::process::id().to_string();
        assert!(matches!(&refused, Error::Locked { owner: Some(owner), .. } if *owner == pid), "{refused:?}");
        assert!(refused.to_string().contains(&pid) && refused.hint().is_some(), "{refused}");
        drop(first);
        Lock::take(root.path(), &NoHolder).expect("free again");
    }

    #[test]
    fn a_child_that_is_being_started_does_not_keep_the_lock() {
        let root = tempfile::tempdir().expect("a directory");
        let owner = Lock::take(root.path(), &NoHolder).expect("free");
        let _copy_of_a_child = owner.file.try_clone().expect("a descriptor");
        drop(owner);
        Lock::take(root.path(), &NoHolder).expect("free again");
    }

    #[test]
    fn p4_a_successor_takes_the_lock_over_and_nobody_gets_in_between() {
        let root = tempfile::tempdir().expect("a directory");
        let keeper = MapHolder::default();
        drop(Lock::take(root.path(), &keeper).expect("free"));
        assert!(matches!(Lock::take(root.path(), &NoHolder), Err(Error::Locked { .. })));
        let _successor = Lock::take(root.path(), &keeper).expect("inherited");
    }

    #[test]
    fn a_held_lock_of_another_cache_is_not_taken_for_this_one() {
        let (root, other) =
            (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        let keeper = MapHolder::default();
        let _elsewhere = Lock::take(other.path(), &keeper).expect("free");
        let _owner = Lock::take(root.path(), &NoHolder).expect("free");
        assert!(matches!(Lock::take(root.path(), &keeper), Err(Error::Locked { .. })));
    }
}
