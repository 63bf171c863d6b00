//! Whether the kernel asks before it reads an image's metadata: found out with an image of our own.
//!
//! Until Linux 7.0 it does not; in 7.1 and 7.2 it asks at every access, also when it has the page; from 7.3 on it asks
//! once and keeps the page, as with data (fs/erofs/data.c).

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, statat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen,
};

use super::event::{self, Event};
use crate::erofs::scratch_image;
use crate::probe::scratch_file;
use crate::sys::fanotify as sys;

/// Files of the image: all their inodes lie in its first pages.
const FILES: usize = 24;
/// More questions than this for so few pages mean one an access.
const CACHED_MAX: usize = 8;
/// How often the answering thread looks whether it is still needed.
const TICK: Duration = Duration::from_millis(10);

/// When the kernel asks for metadata.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Events {
    /// Never: metadata has to be complete before the mount.
    None,
    /// At every access: to be avoided.
    EachAccess,
    /// Before it reads a page that it does not have.
    Cached,
}

/// Mounts an image in `dir` for a moment, where nobody sees it, and counts the questions. Leaves nothing behind.
pub(super) fn events(dir: &Path) -> io::Result<Events> {
    let mut file = scratch_file(dir)?;
    file.write_all(&scratch_image(FILES)?)?;
    let group = sys::init()?;
    sys::mark(group.as_fd(), file.as_fd())?;
    let over = AtomicBool::new(false);
    let asked = std::thread::scope(|scope| {
        let answering = scope.spawn(|| allow_all(&group, &over));
        let looked = look(&file);
        over.store(true, Ordering::Release);
        let asked = answering.join().map_err(|_| io::Error::other("the answering thread panicked"))?;
        looked.and(asked)
    })?;
    Ok(match asked {
        0 => Events::None,
        1..=CACHED_MAX => Events::Cached,
        _ => Events::EachAccess,
    })
}

/// Mounts the image without a place, and looks at every file.
fn look(file: &File) -> io::Result<()> {
    let context = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    fsconfig_set_flag(&context, "ro")?;
    fsconfig_create(&context)?;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    for name in 0..FILES {
        statat(&mount, name.to_string(), AtFlags::empty())?;
    }
    Ok(())
}

/// Lets every read of the image, which is complete, go on; returns how many asked.
fn allow_all(group: &OwnedFd, over: &AtomicBool) -> io::Result<usize> {
    let tick = Timespec { tv_sec: 0, tv_nsec: TICK.subsec_nanos().into() };
    let (mut asked, mut buffer) = (0, [0; 4096]);
    while !over.load(Ordering::Acquire) {
        poll(&mut [PollFd::new(group, PollFlags::IN)], Some(&tick))?;
        let length = match rustix::io::read(group, &mut buffer) {
            Ok(length) => length,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        for event in event::parse(buffer.get(..length).unwrap_or(&[])) {
            let Ok(Event::Access(access)) = event else { continue };
            let fd = sys::adopt_event_fd(access.fd);
            let mut response = [0; 8];
            response[..4].copy_from_slice(&access.fd.to_ne_bytes());
            response[4..].copy_from_slice(&sys::FAN_ALLOW.to_ne_bytes());
            rustix::io::write(group, &response)?;
            drop(fd);
            asked += 1;
        }
    }
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_whether_it_asks_for_metadata_and_nothing_is_left() {
        let place = std::env::var_os("LARDER_SCRATCH").unwrap_or_else(|| "/var/tmp".into());
        let dir = tempfile::tempdir_in(place).unwrap();
        match events(dir.path()) {
            Ok(found) => println!("metadata events: {found:?}"),
            Err(error) => println!("skipped: {error}"),
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
