//! [`Superblock`]: an EROFS of ours in the kernel, known by its backing device.
//!
//! The kernel shows a mount's backing device in /sys/class/bdi for exactly as long as its superblock lives: also when it
//! was unmounted and somebody still uses it, in another namespace or from an open file.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{MemfdFlags, memfd_create};

use crate::Error;
use crate::keeper::Holder;

const BDI: &str = "/sys/class/bdi";

/// The backing devices that may be a mount's: one, or several when other mounts were made in the same moment.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Superblock {
    bdi: Vec<String>,
}

/// The EROFS backing devices that exist now.
pub(crate) fn erofs_devices() -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(BDI) else { return BTreeSet::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("erofs-"))
        .collect()
}

impl Superblock {
    /// What is there now and was not there `before`.
    pub(crate) fn since(before: &BTreeSet<String>) -> Self {
        Self { bdi: erofs_devices().difference(before).cloned().collect() }
    }

    /// Sets the read-ahead of the mount, in KiB, where it is known for certain.
    pub(crate) fn set_read_ahead_kb(&self, kb: u32) {
        if let [name] = self.bdi.as_slice() {
            let path = Path::new(BDI).join(name).join("read_ahead_kb");
            if let Err(error) = fs::write(&path, kb.to_string()) {
                tracing::warn!(path = %path.display(), %error, "read-ahead stays as it is");
            }
        }
    }

    /// The superblocks of `parts` in one: gone when all of them are.
    pub(crate) fn all_of<'a>(parts: impl IntoIterator<Item = &'a Self>) -> Self {
        Self { bdi: parts.into_iter().flat_map(|part| part.bdi.clone()).collect() }
    }

    /// Whether nothing is known about it.
    pub(crate) fn is_unknown(&self) -> bool {
        self.bdi.is_empty()
    }

    /// Whether the superblock is gone for certain. Where nothing is known about it, it is not.
    pub(crate) fn is_gone(&self) -> bool {
        !self.bdi.is_empty() && !self.bdi.iter().any(|name| Path::new(BDI).join(name).exists())
    }

    /// Writes it where the next worker can read it.
    pub(crate) fn persist(&self) -> io::Result<OwnedFd> {
        let mut file = fs::File::from(memfd_create("larder-erofs", MemfdFlags::CLOEXEC)?);
        file.write_all(self.bdi.join("\n").as_bytes())?;
        Ok(file.into())
    }

    /// What an earlier worker gave to `holder` under `name`; unknown if nothing is there.
    ///
    /// # Errors
    ///
    /// [`Error::Take`] when this process can have no descriptor of it.
    pub(crate) fn kept(holder: &dyn Holder, name: &str) -> Result<Self, Error> {
        let kept = holder.take(name).map_err(|source| Error::Take { name: name.to_owned(), source })?;
        Ok(kept.map(|memfd| Self::restore(&memfd)).unwrap_or_default())
    }

    /// Reads what [`persist`](Self::persist) wrote.
    pub(crate) fn restore(memfd: &OwnedFd) -> Self {
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

#[cfg(test)]
impl Superblock {
    /// One with a backing device of this name.
    pub(crate) fn named(name: &str) -> Self {
        Self { bdi: vec![name.to_owned()] }
    }

    /// The names of its backing devices.
    pub(crate) fn names(&self) -> &[String] {
        &self.bdi
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_never_called_gone() {
        assert!(!Superblock::default().is_gone());
        assert!(Superblock::named("erofs-no-such").is_gone());
    }

    #[test]
    fn a_superblock_is_known_again_to_the_next_worker() {
        let superblock = Superblock { bdi: vec!["erofs-3".into(), "erofs-4".into()] };
        let memfd = superblock.persist().unwrap();
        assert_eq!(Superblock::restore(&memfd), superblock);
        assert_eq!(Superblock::restore(&memfd), superblock, "twice");
    }
}
