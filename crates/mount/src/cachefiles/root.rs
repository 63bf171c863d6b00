//! The directory that the kernel's cachefiles keeps its objects in.
//!
//! The kernel takes any extent that it finds there for valid, and loses what had no name yet when the machine goes down.
//! So nothing in it outlives the device: every binding gets a directory of its own, and what earlier ones have left is
//! deleted. The bytes themselves lie in Larder's own cache, with a map that says which of them digests vouch for.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Where the directories are, below the cache.
const KERNEL: &str = "kernel";

/// Deletes what earlier bindings have left below `cache_dir`. Only while nothing is bound there.
pub fn discard(cache_dir: &Path) {
    let all = cache_dir.join(KERNEL);
    let entries = match fs::read_dir(&all) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => return tracing::warn!(path = %all.display(), %error, "cannot be read"),
    };
    for old in entries.flatten() {
        // What a dead binding's mounts still use cannot go yet; the next start tries again.
        if let Err(error) = fs::remove_dir_all(old.path()) {
            tracing::warn!(path = %old.path().display(), %error, "what the kernel had cached stays for now");
        }
    }
}

/// Makes a new directory for one binding, after deleting those of earlier ones.
///
/// Only for who has the device: nobody else's binding can be in use then.
pub(super) fn fresh(cache_dir: &Path) -> io::Result<PathBuf> {
    let all = cache_dir.join(KERNEL);
    fs::create_dir_all(&all)?;
    discard(cache_dir);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    (0_u32..)
        .map(|n| all.join(format!("{now:x}-{n}")))
        .find_map(|new| match fs::create_dir(&new) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => None,
            made => Some(made.map(|()| new)),
        })
        .unwrap_or_else(|| Err(io::ErrorKind::AlreadyExists.into()))
}

/// The directory of the binding that is in force: the only one there is, or the newest.
pub(super) fn current(cache_dir: &Path) -> io::Result<PathBuf> {
    let names = fs::read_dir(cache_dir.join(KERNEL))?.map(|entry| Ok(entry?.path()));
    let names: Vec<PathBuf> = names.collect::<io::Result<_>>()?;
    names.into_iter().max().ok_or_else(|| io::ErrorKind::NotFound.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p1_nothing_that_an_earlier_binding_left_is_ever_served() {
        let cache = tempfile::tempdir().unwrap();
        let first = fresh(cache.path()).unwrap();
        fs::create_dir_all(first.join("cache/Ierofs,v/@00")).unwrap();
        fs::write(first.join("cache/Ierofs,v/@00/Dblob"), "bytes").unwrap();
        discard(Path::new("/no/such/dir"));
        let second = fresh(cache.path()).unwrap();
        assert_ne!(first, second);
        assert!(!first.exists());
        assert_eq!(fs::read_dir(&second).unwrap().count(), 0);
        assert_eq!(current(cache.path()).unwrap(), second);
    }
}
