//! Running a program inside a mounted image, in a mount namespace of its own.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use rustix::process::{getegid, geteuid};

use crate::sys::namespace::{Enter, enter};

/// Directories of the host that a program expects.
const SHOWN: [&str; 3] = ["dev", "proc", "sys"];

/// Makes a command whose process has `root` as its root directory, in a mount namespace of its own; without root in
/// a user namespace, too, where the caller keeps its ids.
///
/// The host's /dev, /proc and /sys are shown, and /tmp is empty and writable, as far as the image has these
/// directories. `program` is looked up inside, by the command's `PATH`. This shows an image at work; it does not
/// lock a program in.
///
/// # Errors
///
/// When `root` has a NUL byte. What is not allowed shows when the command is started.
pub fn command(root: &Path, program: impl AsRef<OsStr>) -> io::Result<Command> {
    let path = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from);
    let shown = |name: &&str| Ok((path(&Path::new("/").join(name))?, path(&root.join(name))?));
    let binds = SHOWN.iter().map(shown).collect::<io::Result<_>>()?;
    let (uid, gid) = (geteuid(), getegid());
    let same = |id: u32| format!("{id} {id} 1\n");
    let id_maps = (!uid.is_root()).then(|| (same(uid.as_raw()), same(gid.as_raw())));
    let mut command = Command::new(program);
    enter(&mut command, Enter { root: path(root)?, binds, tmp: path(&root.join("tmp"))?, id_maps });
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// A root that borrows the host's programs.
    fn small_root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for dir in ["proc", "dev", "tmp", "usr"] {
            fs::create_dir(root.path().join(dir)).unwrap();
        }
        for link in ["bin", "lib", "lib64"] {
            symlink(format!("usr/{link}"), root.path().join(link)).unwrap();
        }
        root
    }

    #[test]
    fn a_program_that_is_not_inside_cannot_be_run() {
        let error = command(small_root().path(), "/bin/sh").unwrap().status().unwrap_err();
        assert!(matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied), "{error}");
    }

    #[test]
    fn a_program_sees_its_root_and_leaves_no_mount_behind() {
        let root = small_root();
        let inner = root.path().join("usr");
        if !geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let mut command = command(root.path(), "/usr/bin/sh").unwrap();
        command.args(["-c", "test -d /proc/self && echo x > /tmp/file && echo ready"]);
        let _guard = Bind::new(Path::new("/usr"), &inner);
        let output = command.output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "ready\n", "{output:?}");
        assert!(!root.path().join("tmp/file").exists());
        assert!(!root.path().join("proc/self").exists());
    }

    struct Bind(std::path::PathBuf);

    impl Bind {
        fn new(from: &Path, to: &Path) -> Self {
            rustix::mount::mount_bind(from, to).unwrap();
            Self(to.to_owned())
        }
    }

    impl Drop for Bind {
        fn drop(&mut self) {
            let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
        }
    }
}
