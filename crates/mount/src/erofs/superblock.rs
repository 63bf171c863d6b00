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
/// The line that stands for one of which nothing is known.
const UNKNOWN: &str = "unknown";
/// The line that says that it is on plain files. Earlier releases know no such line, and read over it.
const ON_PLAIN_FILES: &str = "on plain files";
/// Of such a list, at most: some hundred thousand names.
const BYTES_MAX: u64 = 1 << 20;

/// The backing devices that may be a mount's: one, or several when other mounts were made in the same moment.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Superblock {
    bdi: Vec<String>,
    /// One of several in one is unknown.
    has_unknown: bool,
    /// Whether it is on files of which nothing is missing: nobody has to serve it.
    pub(super) on_plain_files: bool,
}

/// The EROFS backing devices that exist now.
pub(crate) fn erofs_devices() -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(BDI) else { return BTreeSet::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("erofs-"))
        .collect()
}

/// Whether an EROFS backing device can have this name.
fn is_name(name: &str) -> bool {
    name.starts_with("erofs-") && !name.contains('/')
}

impl Superblock {
    /// What is there now and was not there `before`.
    pub(crate) fn since(before: &BTreeSet<String>) -> Self {
        Self { bdi: erofs_devices().difference(before).cloned().collect(), ..Self::default() }
    }

    /// One of those that are there now, nobody knows which: gone when all of them are.
    pub(crate) fn any() -> Self {
        Self::since(&BTreeSet::new())
    }

    /// The one that has, or had, these backing devices; unknown without any.
    pub(crate) fn of_names(names: &[String]) -> Self {
        let bdi = names.iter().filter(|name| is_name(name)).cloned().collect();
        Self { bdi, ..Self::default() }
    }

    /// The names of its backing devices.
    pub(crate) fn names(&self) -> &[String] {
        &self.bdi
    }

    /// The same, on plain files or not.
    pub(super) fn with_plain_files(self, on_plain_files: bool) -> Self {
        Self { on_plain_files, ..self }
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
        let mut all = Self::default();
        for part in parts {
            all.bdi.extend_from_slice(&part.bdi);
            all.has_unknown |= part.has_unknown || part.is_unknown();
        }
        all
    }

    /// One that is there: without the backing devices that have gone, which were others'.
    pub(super) fn narrowed(self) -> Self {
        let bdi: Vec<String> =
            self.bdi.iter().filter(|name| Path::new(BDI).join(name).exists()).cloned().collect();
        if bdi.is_empty() { self } else { Self { bdi, ..self } }
    }

    /// Whether nothing is known about it.
    pub(crate) fn is_unknown(&self) -> bool {
        self.bdi.is_empty()
    }

    /// Whether there is none: what [`all_of`](Self::all_of) makes of nothing.
    pub(crate) fn is_none(&self) -> bool {
        self.bdi.is_empty() && !self.has_unknown
    }

    /// Whether the superblock is gone for certain. Where nothing is known about it, it is not.
    pub(crate) fn is_gone(&self) -> bool {
        !self.has_unknown
            && !self.bdi.is_empty()
            && !self.bdi.iter().any(|name| Path::new(BDI).join(name).exists())
    }

    /// Whether the superblock lives for certain: all of which one is it do.
    pub(crate) fn lives(&self) -> bool {
        !self.has_unknown
            && !self.bdi.is_empty()
            && self.bdi.iter().all(|name| Path::new(BDI).join(name).exists())
    }

    /// Writes it where the next worker can read it.
    pub(crate) fn persist(&self) -> io::Result<OwnedFd> {
        let mut file = fs::File::from(memfd_create("larder-erofs", MemfdFlags::CLOEXEC)?);
        let unknown = self.has_unknown.then_some(UNKNOWN);
        let plain = self.on_plain_files.then_some(ON_PLAIN_FILES);
        let lines: Vec<&str> = self.bdi.iter().map(String::as_str).chain(unknown).chain(plain).collect();
        file.write_all(lines.join("\n").as_bytes())?;
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
        let read = file.rewind().and_then(|()| file.take(BYTES_MAX).read_to_string(&mut text));
        match read {
            Ok(_) => Self {
                bdi: text.lines().filter(|line| is_name(line)).map(str::to_owned).collect(),
                has_unknown: text.lines().any(|line| line == UNKNOWN),
                on_plain_files: text.lines().any(|line| line == ON_PLAIN_FILES),
            },
            Err(_) => Self::default(),
        }
    }
}

#[cfg(test)]
impl Superblock {
    /// One with a backing device of this name.
    pub(crate) fn named(name: &str) -> Self {
        Self { bdi: vec![name.to_owned()], ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_never_called_gone() {
        assert!(!Superblock::default().is_gone() && !Superblock::default().lives());
        let gone = Superblock::named("erofs-no-such");
        assert!(gone.is_gone() && !gone.lives());
    }

    #[test]
    fn a_superblock_is_known_again_to_the_next_worker() {
        for on_plain_files in [false, true] {
            let bdi = vec!["erofs-3".into(), "erofs-4".into()];
            let superblock = Superblock { bdi, on_plain_files, ..Superblock::default() };
            let memfd = superblock.persist().unwrap();
            assert_eq!(Superblock::restore(&memfd), superblock);
            assert_eq!(Superblock::restore(&memfd), superblock, "twice");
        }
    }

    #[test]
    fn of_several_one_that_is_unknown_keeps_all_from_being_gone() {
        let gone = Superblock::named("erofs-no-such");
        assert!(Superblock::all_of([&gone, &gone]).is_gone());
        let all = Superblock::all_of([&gone, &Superblock::default()]);
        let again = Superblock::restore(&all.persist().unwrap());
        assert!(!again.is_gone() && !again.is_none() && again == all);
        assert!(Superblock::all_of([]).is_none());
    }
}
