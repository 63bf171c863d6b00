//! Superblocks that outlive their unmounting: somebody else still uses them, in another namespace or detached.
//!
//! Until one is gone its blobs must stay marked and answered for. The kernel shows a mount's backing device in
//! /sys/class/bdi for exactly as long as its superblock lives.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{MemfdFlags, memfd_create};

use super::blobs::User;
use crate::keeper::Holder;

const BDI: &str = "/sys/class/bdi";
/// The list's name with the keeper.
const RETIRING: &str = "retiring";

/// The backing devices that may be a mount's: one, or several when other mounts were made in the same moment.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Superblock {
    bdi: Vec<String>,
}

/// The EROFS backing devices that exist now.
pub(super) fn erofs_devices() -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(BDI) else { return BTreeSet::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("erofs-"))
        .collect()
}

impl Superblock {
    /// What is there now and was not there `before`.
    pub(super) fn since(before: &BTreeSet<String>) -> Self {
        Self { bdi: erofs_devices().difference(before).cloned().collect() }
    }

    /// Sets the read-ahead of the mount, in KiB, where it is known for certain.
    pub(super) fn set_read_ahead_kb(&self, kb: u32) {
        if let [name] = self.bdi.as_slice() {
            let path = Path::new(BDI).join(name).join("read_ahead_kb");
            if let Err(error) = fs::write(&path, kb.to_string()) {
                tracing::warn!(path = %path.display(), %error, "read-ahead stays as it is");
            }
        }
    }

    /// Whether the superblock is gone for certain. Where nothing is known about it, it is not.
    pub(super) fn is_gone(&self) -> bool {
        !self.bdi.is_empty() && !self.bdi.iter().any(|name| Path::new(BDI).join(name).exists())
    }

    /// Writes it where the next worker can read it.
    pub(super) fn persist(&self) -> io::Result<OwnedFd> {
        let mut file = fs::File::from(memfd_create("larder-erofs", MemfdFlags::CLOEXEC)?);
        file.write_all(self.bdi.join("\n").as_bytes())?;
        Ok(file.into())
    }

    /// Reads what [`persist`](Self::persist) wrote.
    pub(super) fn restore(memfd: &OwnedFd) -> Self {
        let mut text = String::new();
        let Ok(mut file) = memfd.as_fd().try_clone_to_owned().map(fs::File::from) else {
            return Self::default();
        };
        let read = file.rewind().and_then(|()| file.take(4096).read_to_string(&mut text));
        let is_name = |name: &&str| name.starts_with("erofs-") && !name.contains('/');
        match read {
            Ok(_) => Self { bdi: text.lines().filter(is_name).map(str::to_owned).collect() },
            Err(_) => Self::default(),
        }
    }
}

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

    /// Writes the list down with `holder`: a successor must not end while somebody still reads.
    pub(super) fn keep(&self, holder: &dyn Holder) -> io::Result<()> {
        let bdi = self.lock().iter().flat_map(|(_, superblock)| superblock.bdi.clone()).collect();
        let memfd = Superblock { bdi }.persist()?;
        holder.keep(RETIRING, memfd.as_fd())
    }

    /// Takes up the list of an earlier worker, as one entry: which blobs they use is not known any more, and whoever
    /// asks for one of them is denied.
    pub(super) fn take_up(&self, holder: &dyn Holder) {
        let Some(memfd) = holder.take(RETIRING) else { return };
        let superblock = Superblock::restore(&memfd);
        if !superblock.bdi.is_empty() && !superblock.is_gone() {
            self.add(User::new(), superblock);
        }
    }

    /// Calls `release` for each mount whose superblock has gone.
    pub(super) fn release_what_is_gone(&self, release: impl Fn(User)) {
        for (user, _) in self.lock().extract_if(.., |(_, superblock)| superblock.is_gone()) {
            release(user);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(User, Superblock)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_never_called_gone() {
        assert!(!Superblock::default().is_gone());
        assert!(Superblock { bdi: vec!["erofs-no-such".into()] }.is_gone());
    }

    #[derive(Default)]
    struct OneSlot(Mutex<Option<OwnedFd>>);

    impl Holder for OneSlot {
        fn keep(&self, _: &str, fd: std::os::fd::BorrowedFd<'_>) -> io::Result<()> {
            *self.0.lock().unwrap() = Some(fd.try_clone_to_owned()?);
            Ok(())
        }

        fn take(&self, _: &str) -> Option<OwnedFd> {
            self.0.lock().unwrap().as_ref()?.try_clone().ok()
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
        retiring.add(User::new(), Superblock { bdi: vec!["erofs-no-such".into()] });
        retiring.add(User::new(), Superblock { bdi: vec!["erofs-nor-this".into()] });
        retiring.keep(&holder).unwrap();
        let kept = Superblock::restore(&holder.take(RETIRING).unwrap());
        assert_eq!(kept.bdi, ["erofs-no-such", "erofs-nor-this"]);
        let successor = Retiring::default();
        successor.take_up(&holder);
        assert!(successor.is_empty(), "both are gone by now");
    }

    #[test]
    fn a_superblock_is_known_again_to_the_next_worker() {
        let superblock = Superblock { bdi: vec!["erofs-3".into(), "erofs-4".into()] };
        let memfd = superblock.persist().unwrap();
        assert_eq!(Superblock::restore(&memfd), superblock);
        assert_eq!(Superblock::restore(&memfd), superblock, "twice");
    }
}
