//! [`Connection`]: the one FUSE of the process, mounted where nobody sees it.
//!
//! Its mount is attached to no directory. EROFS opens files in it by way of a working directory (`erofs::mount`), and
//! nobody else can. So it needs no place, is in nobody's mount table, and ends with its last descriptor.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen,
};
use tokio::runtime::Handle;

use crate::Error;
use crate::fuse::{Channel, FileSystem, Pool, Server};
use crate::keeper::Holder;

/// The keeper's names.
const DEVICE: &str = "fuse-blob/device";
const ROOT: &str = "fuse-blob/root";

/// One FUSE: /dev/fuse and its detached mount.
#[derive(Debug)]
pub(crate) struct Connection {
    channel: Channel,
    root: OwnedFd,
}

impl Connection {
    /// Makes one; nobody serves it yet.
    ///
    /// # Errors
    ///
    /// Without the privilege, or without FUSE.
    pub(crate) fn new() -> io::Result<Self> {
        let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&context, "source", "larder")?;
        fsconfig_set_string(&context, "subtype", "larder")?;
        fsconfig_set_string(&context, "fd", device.as_raw_fd().to_string())?;
        fsconfig_set_string(&context, "rootmode", "40000")?;
        fsconfig_set_string(&context, "user_id", "0")?;
        fsconfig_set_string(&context, "group_id", "0")?;
        // EROFS of Linux 6.12 reads with the rights of whoever reads from it.
        fsconfig_set_flag(&context, "allow_other")?;
        fsconfig_set_flag(&context, "ro")?;
        fsconfig_create(&context)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let root = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
        Ok(Self { channel: Channel::with_successor(device), root })
    }

    /// The one of an earlier worker.
    pub(super) fn inherit(holder: &dyn Holder) -> io::Result<Option<Self>> {
        let (Some(device), Some(root)) = (holder.take(DEVICE)?, holder.take(ROOT)?) else { return Ok(None) };
        Ok(Some(Self { channel: Channel::with_successor(device), root }))
    }

    /// Gives it to `holder`, whole or not at all.
    pub(super) fn keep(&self, holder: &dyn Holder) -> Result<(), Error> {
        for (name, fd) in [(ROOT, self.root.as_fd()), (DEVICE, self.channel.fd())] {
            holder.keep(name, fd).map_err(|source| {
                holder.release(ROOT);
                Error::Keep { name: name.to_owned(), source }
            })?;
        }
        Ok(())
    }

    /// Takes it from `holder`: nobody is to have it any more.
    pub(super) fn release(self, holder: &dyn Holder) {
        for name in [DEVICE, ROOT] {
            holder.release(name);
        }
    }

    /// The root directory. This process looks nothing up in it: it would wait for itself.
    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Asks the kernel for what an earlier worker had in hand.
    pub(super) fn ask_for_resend(&self) -> io::Result<()> {
        self.channel.ask_for_resend()
    }

    /// Leaves every question to the next worker: no more are taken, and those in hand are not answered.
    pub(super) fn hand_over(&self) {
        self.channel.hand_over();
    }

    /// Serves `files` until nothing of the FUSE is mounted or held any more. What takes time goes to `runtime`.
    pub(crate) fn serve(&self, files: Arc<dyn FileSystem>, runtime: &Handle) -> io::Result<()> {
        // Its threads end by themselves.
        Pool::new()?.serve(Server::new(files, self.channel.clone(), runtime.clone()))?;
        Ok(())
    }
}
