//! A child in namespaces of its own, with another root directory.
#![expect(unsafe_code, reason = "runs code between fork and exec")]

use std::ffi::CString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind_recursive, mount_change};
use rustix::process::{chdir, chroot};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// What the child does before it becomes the program; everything that needs memory is made before the fork.
pub(crate) struct Enter {
    pub(crate) root: CString,
    /// Directories of the host that are shown inside, as (outside, inside); those that cannot be are left out.
    pub(crate) binds: Vec<(CString, CString)>,
    /// Gets a fresh tmpfs, where it can.
    pub(crate) tmp: CString,
    /// Contents of uid_map and gid_map, for users who need a user namespace to be allowed the rest.
    pub(crate) id_maps: Option<(String, String)>,
}

/// Lets the child of `command` enter its own mount namespace with `enter.root` as its root.
pub(crate) fn enter(command: &mut Command, enter: Enter) {
    // SAFETY: the closure makes system calls only, on memory that was allocated before the fork; no locks.
    unsafe { command.pre_exec(move || enter.run()) };
}

impl Enter {
    fn run(&self) -> io::Result<()> {
        let user = if self.id_maps.is_some() { UnshareFlags::NEWUSER } else { UnshareFlags::empty() };
        // SAFETY: the child has one thread, and shares neither files nor memory with others afterwards.
        unsafe { unshare_unsafe(user | UnshareFlags::NEWNS) }?;
        if let Some((uids, gids)) = &self.id_maps {
            write(c"/proc/self/setgroups", "deny")?;
            write(c"/proc/self/uid_map", uids)?;
            write(c"/proc/self/gid_map", gids)?;
        }
        mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        for (outside, inside) in &self.binds {
            let _ = mount_bind_recursive(outside.as_c_str(), inside.as_c_str());
        }
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        let _ = mount(c"tmpfs", self.tmp.as_c_str(), c"tmpfs", flags, c"mode=1777");
        chroot(self.root.as_c_str())?;
        chdir(c"/")?;
        Ok(())
    }
}

fn write(path: &std::ffi::CStr, text: &str) -> io::Result<()> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, text.as_bytes())?;
    Ok(())
}
