//! [`Walks`]: whether the file systems on the way to a path answer.
//!
//! To take a mount away, or to make one, the kernel looks its path up. Where that leads through a file system that hangs (a dead
//! NFS server), whoever asks for it hangs, too, for as long; and everybody who waits for him. So a child looks first, and only
//! where it comes back the path is used.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::Error;
use crate::sys::child::{follow_in_child, look_up_in_child};
use crate::target::mount_of;

/// How long a look-up may take: much longer than one does where somebody answers.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// For how long nobody looks again after that.
const AGAIN: Duration = Duration::from_secs(5);

/// Places that do not answer at most, with a child for each that no signal ends.
const SILENT_MAX: usize = 64;

/// Between two looks at whether a child has come back.
const PAUSE: Duration = Duration::from_millis(1);

/// Who does not answer.
static WALKS: Walks = Walks::new(ANSWER_MAX, AGAIN);

/// Which places do not answer: those who want to go there are told at once, and do not wait one after the other.
#[derive(Debug)]
struct Walks {
    answer_max: Duration,
    again: Duration,
    silent: Mutex<Vec<Silent>>,
}

/// A place where a look-up did not come back in time.
#[derive(Debug)]
struct Silent {
    place: Place,
    since: Instant,
    child: Pid,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Place {
    /// The mount of this number, and every path in it.
    Mount(u64),
    /// A path whose links may lead anywhere.
    Path(PathBuf),
}

/// Says whether `target`, an absolute path without links, can be looked up; what is mounted there is not touched. Waits for three
/// seconds at most.
///
/// # Errors
///
/// [`Error::NoAnswer`] when it cannot.
pub(crate) fn check(target: &Path) -> Result<(), Error> {
    WALKS.answers(target).then_some(()).ok_or_else(|| no_answer(target))
}

/// Says whether `path` can be looked up, with its links; what is mounted there is found, and not asked anything. Waits for three
/// seconds at most.
///
/// # Errors
///
/// [`Error::NoAnswer`] when it cannot: who used the path would wait for as long as a file system hangs.
pub fn check_path(path: &Path) -> Result<(), Error> {
    WALKS.answers_all_the_way(path).then_some(()).ok_or_else(|| no_answer(path))
}

fn no_answer(target: &Path) -> Error {
    Error::NoAnswer { target: target.to_owned() }
}

impl Walks {
    const fn new(answer_max: Duration, again: Duration) -> Self {
        Self { answer_max, again, silent: Mutex::new(Vec::new()) }
    }

    /// What cannot be found out is left to whoever uses the path.
    fn answers(&self, target: &Path) -> bool {
        let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else { return true };
        let root = Path::new("/");
        // Without the root's file system nobody gets anywhere.
        let Some(within) = mount_of(parent).ok().flatten().filter(|mount| mount.path != root) else {
            return true;
        };
        let (Some(parent), Some(name)) = (text(parent.as_os_str()), text(name)) else { return true };
        self.comes_back(Place::Mount(within.id), || look_up_in_child(&parent, &name))
    }

    /// The same for a path with links. That may lead through any mount, so that nothing is said of other paths.
    fn answers_all_the_way(&self, path: &Path) -> bool {
        let Some(text) = text(path.as_os_str()) else { return true };
        self.comes_back(Place::Path(path.to_owned()), || follow_in_child(&text))
    }

    fn comes_back(&self, place: Place, start: impl FnOnce() -> io::Result<Pid>) -> bool {
        if self.is_silent(&place) {
            return false;
        }
        let child = match start() {
            Ok(child) => child,
            Err(error) => {
                tracing::warn!(?place, %error, "not known whether its file system answers");
                return true;
            }
        };
        let begun = Instant::now();
        while !has_ended(child) {
            if begun.elapsed() >= self.answer_max {
                // It ends with that where the kernel lets it.
                let _ = kill_process(child, Signal::KILL);
                self.lock().push(Silent { place, since: Instant::now(), child });
                return false;
            }
            std::thread::sleep(PAUSE);
        }
        true
    }

    /// Whether `place` did not answer a moment ago, or a child still hangs there.
    fn is_silent(&self, place: &Place) -> bool {
        let mut silent = self.lock();
        silent.retain(|silent| silent.since.elapsed() < self.again || !has_ended(silent.child));
        silent.len() >= SILENT_MAX || silent.iter().any(|silent| silent.place == *place)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Silent>> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the kernel takes; no path that there is has a NUL byte.
fn text(path: &OsStr) -> Option<CString> {
    CString::new(path.as_bytes()).ok()
}

/// Whether `child` has ended; it must not be asked for again then.
fn has_ended(child: Pid) -> bool {
    !matches!(rustix::io::retry_on_intr(|| waitpid(Some(child), WaitOptions::NOHANG)), Ok(None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuse::device::{self, Style};
    use crate::target::unmount;

    #[test]
    fn p4_nobody_waits_for_a_file_system_that_does_not_answer() {
        let dir = tempfile::tempdir().unwrap();
        let (dead, well) = (dir.path().join("dead"), dir.path().join("well"));
        [&dead, &well].iter().for_each(|dir| std::fs::create_dir(dir).unwrap());
        let device = match device::mount(&dead, Style::daemon("nobody answers")) {
            Ok(device) => device,
            Err(error) => return println!("skipped: FUSE cannot be mounted here: {error}"),
        };
        let (answer_max, again) = (Duration::from_millis(300), Duration::from_millis(500));
        let walks = Walks::new(answer_max, again);
        let begun = Instant::now();
        let there = walks.answers(&dead.join("mnt"));
        let took = begun.elapsed();
        let others: Vec<bool> = (0..20).map(|n| walks.answers(&dead.join(format!("mnt{n}")))).collect();
        let took_others = begun.elapsed() - took;
        let elsewhere = walks.answers(&well);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dead.join("mnt"), &link).unwrap();
        let (by_link, beside) = (walks.answers_all_the_way(&link), walks.answers_all_the_way(&well));
        // Whoever hangs gets ENOTCONN.
        drop(device);
        let is_well = || walks.answers(&dead.join("mnt")) && walks.lock().is_empty();
        while !is_well() && begun.elapsed().as_secs() < 60 {
            std::thread::sleep(Duration::from_millis(20));
        }
        let again = is_well();
        unmount(&dead, true).unwrap();
        assert!(!there && took >= answer_max, "{took:?}");
        assert!(!others.contains(&true) && took_others < 20 * answer_max, "{took_others:?}");
        assert!(elsewhere && again, "nothing is left");
        assert!(!by_link && beside);
    }

    #[test]
    fn a_path_that_leads_nowhere_and_a_mount_that_is_not_entered_are_answers() {
        let walks = Walks::new(Duration::from_secs(60), AGAIN);
        for path in ["/", "/proc/nothing/there", "/proc/sys/kernel", "/sys/fs/cgroup", "relative"] {
            assert!(walks.answers(Path::new(path)), "{path}");
        }
    }
}
