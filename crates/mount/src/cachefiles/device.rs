//! [`Device`]: /dev/cachefiles, open; the keeper holds it, too.
//!
//! One process can have it at a time. When its last descriptor is closed the kernel's cache is dead: whoever reads from
//! a mount on it gets EIO, from then on and for ever, and never zeros (fs/cachefiles/daemon.c, v6.12).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};

use super::command::Command;
use super::message::MESSAGE_BYTES_MAX;
use crate::keeper::Holder;

/// Where it is.
const PATH: &str = "/dev/cachefiles";
/// Its name with the keeper.
const NAME: &str = "cachefiles/device";
/// The cache's name in the kernel's log.
const TAG: &str = "larder";

/// The open device.
#[derive(Debug)]
pub(crate) struct Device {
    fd: OwnedFd,
}

impl Device {
    /// Opens the device; nothing is bound yet. EBUSY: somebody has it.
    pub(crate) fn open() -> io::Result<Self> {
        let fd = rustix::fs::open(PATH, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { fd })
    }

    /// Takes over what `holder` has.
    pub(super) fn inherit(holder: &dyn Holder) -> io::Result<Option<Self>> {
        Ok(holder.take(NAME)?.map(|fd| Self { fd }))
    }

    /// Lets the kernel keep its objects in `root`, an empty directory of ours, and gives the device to `holder`.
    pub(crate) fn bind(&self, root: &Path) -> io::Result<()> {
        self.tell(Command::Dir(root))?;
        self.tell(Command::Tag(TAG))?;
        self.tell(Command::Bind)
    }

    /// Gives a copy to `holder`.
    pub(super) fn keep(&self, holder: &dyn Holder) -> io::Result<()> {
        holder.keep(NAME, self.fd.as_fd())
    }

    /// Another descriptor of it.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()? })
    }

    /// Writes one command.
    pub(super) fn tell(&self, command: Command<'_>) -> io::Result<()> {
        let bytes = command.encode().map_err(io::Error::other)?;
        let written = rustix::io::retry_on_intr(|| rustix::io::write(&self.fd, &bytes))?;
        if written == bytes.len() {
            return Ok(());
        }
        Err(io::Error::other(format!("{command}: the kernel took {written} of {} bytes", bytes.len())))
    }

    /// Reads one message into `buffer`; `None` when there is none. Does not wait.
    pub(super) fn receive<'a>(
        &self,
        buffer: &'a mut [u8; MESSAGE_BYTES_MAX],
    ) -> io::Result<Option<&'a [u8]>> {
        let len = rustix::io::retry_on_intr(|| rustix::io::read(&self.fd, &mut buffer[..]))?;
        Ok(buffer.get(..len).filter(|bytes| !bytes.is_empty()))
    }

    /// Whether the kernel wants objects to be culled.
    pub(super) fn wants_culling(&self) -> bool {
        let mut fds = [PollFd::new(&self.fd, PollFlags::OUT)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().contains(PollFlags::OUT)
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
