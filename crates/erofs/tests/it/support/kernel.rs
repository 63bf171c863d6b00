//! The kernel as a judge: mounts an image, without a loop device.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::support::is_root;

/// A mounted image; dropped, it is unmounted.
#[derive(Debug)]
pub struct Mounted(PathBuf);

impl Mounted {
    /// Mounts `image` with `devices` on the directory `at`; the reason when the kernel or this user cannot.
    ///
    /// Needs root, Linux 6.12 with file-backed EROFS, and an image on a file system like ext4.
    pub fn new(image: &Path, devices: &[&Path], at: &Path) -> Result<Self, String> {
        let options: Vec<Vec<u8>> =
            devices.iter().map(|path| [b"device=", path.as_os_str().as_bytes()].concat()).collect();
        let options = CString::new(options.join(&b','.clone())).map_err(|error| error.to_string())?;
        mount(image, at, "erofs", MountFlags::RDONLY, Some(options.as_c_str()))
            .map_err(|error| format!("mount of {}: {error}", image.display()))?;
        Ok(Self(at.to_path_buf()))
    }

    /// Whether this test can mount; says why, where it cannot.
    pub fn is_possible() -> bool {
        let why = Self::impossible();
        if let Some(why) = &why {
            eprintln!("SKIPPED: not compared with the kernel: {why}");
        }
        why.is_none()
    }

    /// Why this test cannot mount at all, if so.
    pub fn impossible() -> Option<String> {
        if !is_root() {
            return Some("mounting needs root".to_owned());
        }
        let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
        (!known.contains("erofs")).then(|| "this kernel has no EROFS (try: modprobe erofs)".to_owned())
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}
