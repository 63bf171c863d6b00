//! Culling: the kernel says that its disk is filling up, this side chooses what goes.
//!
//! `cull NAME` is about a file in the working directory of who writes it, so that a thread with a working directory of
//! its own does it. The kernel refuses what is in use (fs/cachefiles/namei.c, v6.12). What goes is a copy: the bytes
//! stay in Larder's cache as long as its own limits let them.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::command::Command;
use super::device::Device;
use crate::sys::cachefiles::own_working_directory;

/// Between two rounds.
pub(super) const PAUSE: Duration = Duration::from_secs(5);
/// How deep the kernel's folders are: `cache/I<volume>/@xx/<object>`.
const DEPTH: usize = 3;

/// An object of the kernel's.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Candidate {
    /// When it was last read, in seconds and nanoseconds.
    used: (i64, i64),
    folder: PathBuf,
    name: String,
}

/// Starts a round: the objects below `root` that were not used for longest go, until the kernel has enough.
pub(super) fn start(device: &Device, root: &Path) {
    let Ok(device) = device.try_clone() else { return };
    let root = root.to_owned();
    let round = move || match round(&device, &root) {
        Ok(culled) => tracing::info!(culled, "cachefiles: culled"),
        Err(error) => tracing::warn!(%error, "cachefiles: cannot cull"),
    };
    if let Err(error) = std::thread::Builder::new().name("cull".into()).spawn(round) {
        tracing::warn!(%error, "cachefiles: cannot cull");
    }
}

fn round(device: &Device, root: &Path) -> io::Result<usize> {
    own_working_directory()?;
    let mut candidates = Vec::new();
    find(&root.join("cache"), DEPTH, &mut candidates)?;
    candidates.sort();
    let mut culled = 0;
    for candidate in candidates {
        if !device.wants_culling() {
            break;
        }
        culled += usize::from(cull(device, &candidate)?);
    }
    Ok(culled)
}

/// Takes one object away; false when it is in use or gone. In this thread's own working directory.
fn cull(device: &Device, candidate: &Candidate) -> io::Result<bool> {
    let folder = fs::File::open(&candidate.folder)?;
    rustix::process::fchdir(folder.as_fd())?;
    match device.tell(Command::Cull(&candidate.name)) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::ENOENT | libc::ESTALE)) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn find(folder: &Path, depth: usize, found: &mut Vec<Candidate>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (kind, path) = (entry.file_type()?, entry.path());
        if kind.is_dir() && depth > 0 {
            find(&path, depth - 1, found)?;
        } else if let (true, Ok(name)) = (kind.is_file(), entry.file_name().into_string()) {
            let meta = entry.metadata()?;
            let used = (meta.atime(), meta.atime_nsec()).max((meta.mtime(), meta.mtime_nsec()));
            found.push(Candidate { used, folder: folder.to_owned(), name });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_for_longest_goes_first_wherever_it_lies() {
        let root = tempfile::tempdir().unwrap();
        for (n, place) in ["Ierofs,b/@01/Dnew", "Ierofs,a/@02/Dold", "Ierofs,a/@03/Dolder"].iter().enumerate()
        {
            let path = root.path().join("cache").join(place);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let file = fs::File::create(&path).unwrap();
            let used = std::time::UNIX_EPOCH + Duration::from_secs(1000 - u64::try_from(n).unwrap());
            file.set_times(fs::FileTimes::new().set_accessed(used).set_modified(used)).unwrap();
        }
        let mut found = Vec::new();
        find(&root.path().join("cache"), DEPTH, &mut found).unwrap();
        found.sort();
        let names: Vec<_> = found.iter().map(|candidate| candidate.name.as_str()).collect();
        assert_eq!(names, ["Dolder", "Dold", "Dnew"]);
    }
}
