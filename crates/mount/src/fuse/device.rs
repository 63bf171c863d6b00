//! Getting a mounted /dev/fuse: by mount(2) as root, by fusermount without.

use std::ffi::{CString, OsStr};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountFlags;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg,
    socketpair,
};

use crate::target::{self, Spot};
use crate::{Error, FrontEndKind};

/// The helpers that may mount for a user, newest first. Debian's fuse3 package has the first one.
const HELPERS: [&str; 2] = ["fusermount3", "fusermount"];

/// How a connection is mounted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style<'a> {
    /// What the mount table shows as source.
    pub source: &'a str,
    /// What the mount table shows behind `fuse.`.
    pub subtype: &'a str,
    /// Whether other users may come in; who mounts as root lets them in anyhow.
    pub allow_other: bool,
}

impl<'a> Style<'a> {
    /// The way of the daemon's mounts.
    pub fn daemon(source: &'a str) -> Self {
        Self { source, subtype: "larder", allow_other: false }
    }
}

/// Mounts a new FUSE connection at `target` and returns its /dev/fuse.
pub(crate) fn mount(target: &Path, style: Style<'_>) -> Result<OwnedFd, Error> {
    if rustix::process::geteuid().is_root() {
        mount_as_root(target, style)
    } else {
        mount_by_helper(target, style)
    }
}

/// Unmounts `spot`; `lazy` detaches it from the tree although it is in use. The helper fails for a mount that somebody has
/// taken away already: that is no error.
pub(crate) fn unmount(spot: &Spot, lazy: bool) -> Result<(), Error> {
    spot.take_away(|| take_top(spot.target(), lazy))
}

/// Detaches what this process has just mounted at `target`.
pub(crate) fn undo(target: &Path) {
    if let Err(error) = take_top(target, true) {
        tracing::warn!(target = %target.display(), %error, "stays mounted, and nobody serves it");
    }
}

fn take_top(target: &Path, lazy: bool) -> Result<(), Error> {
    if rustix::process::geteuid().is_root() {
        return target::unmount(target, lazy);
    }
    let mut command = helper(target)?;
    command.arg("-u");
    if lazy {
        command.arg("-z");
    }
    let output = command.arg("--").arg(target).stdin(Stdio::null()).output();
    let output = output.map_err(|_| Error::NoFusermount { target: target.to_owned() })?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    match output.status.success() {
        true => Ok(()),
        false if said.contains("busy") => Err(Error::Busy { target: target.to_owned() }),
        false => Err(Error::Fusermount { target: target.to_owned(), said }),
    }
}

fn mount_as_root(target: &Path, style: Style<'_>) -> Result<OwnedFd, Error> {
    let kernel = |source| Error::Kernel { kind: FrontEndKind::Fuse, doing: "opening /dev/fuse", source };
    let fd = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| kernel(errno.into()))?;
    let data =
        format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions", fd.as_raw_fd());
    let data = CString::new(data).map_err(|error| kernel(error.into()))?;
    let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID;
    let kind = format!("fuse.{}", style.subtype);
    rustix::mount::mount(style.source, target, kind.as_str(), flags, data.as_c_str()).map_err(|errno| {
        Error::Mount { target: target.to_owned(), detail: String::new(), source: errno.into() }
    })?;
    Ok(fd)
}

/// The helper gets a socket as its standard input and sends the descriptor back through it.
fn mount_by_helper(target: &Path, style: Style<'_>) -> Result<OwnedFd, Error> {
    let kernel = |errno: Errno| Error::Kernel {
        kind: FrontEndKind::Fuse,
        doing: "talking to fusermount",
        source: errno.into(),
    };
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).map_err(kernel)?;
    let name: String = style.source.chars().map(|c| if c == ',' || c == '\\' { '_' } else { c }).collect();
    let other = if style.allow_other { ",allow_other" } else { "" };
    let options =
        format!("ro,nosuid,nodev,default_permissions,fsname={name},subtype={}{other}", style.subtype);
    let output = helper(target)?
        .args([OsStr::new("-o"), OsStr::new(&options), OsStr::new("--"), target.as_os_str()])
        .env("_FUSE_COMMFD", "0")
        .stdin(Stdio::from(theirs))
        .output()
        .map_err(|_| Error::NoFusermount { target: target.to_owned() })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Error::Fusermount { target: target.to_owned(), said });
    }
    let sent = receive_descriptor(&ours).map_err(kernel)?;
    sent.ok_or_else(|| Error::Fuse { target: target.to_owned(), finding: "fusermount sent no descriptor" })
}

fn receive_descriptor(socket: &OwnedFd) -> Result<Option<OwnedFd>, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0_u8; 1];
    let mut parts = [io::IoSliceMut::new(&mut byte)];
    recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    Ok(control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    }))
}

/// The set-uid helper, where there is one.
pub(crate) fn fusermount() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    let places = HELPERS.iter().flat_map(|name| std::env::split_paths(&path).map(move |dir| dir.join(name)));
    places.into_iter().find(|place| place.is_file())
}

fn helper(target: &Path) -> Result<Command, Error> {
    fusermount().map(Command::new).ok_or_else(|| Error::NoFusermount { target: target.to_owned() })
}
