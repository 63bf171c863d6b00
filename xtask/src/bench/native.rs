//! The peer: the kernel's EROFS on plain files, without Larder.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// A mount that ends when dropped.
pub struct NativeMount {
    target: PathBuf,
}

impl NativeMount {
    /// Mounts `metadata` with its `blobs` at `target`, which is made. mount(2) makes no loop device.
    pub fn new(metadata: &Path, blobs: &[PathBuf], target: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(target)?;
        let options: Vec<String> = blobs.iter().map(|blob| format!("device={}", blob.display())).collect();
        let options = CString::new(options.join(","))?;
        mount(metadata, target, "erofs", MountFlags::RDONLY, options.as_c_str())
            .with_context(|| format!("{}: EROFS cannot be mounted", target.display()))?;
        Ok(Self { target: target.to_owned() })
    }

    /// Where it is mounted.
    pub fn target(&self) -> &Path {
        &self.target
    }
}

impl Drop for NativeMount {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.target, UnmountFlags::DETACH) {
            eprintln!("bench: {}: not unmounted: {error}", self.target.display());
        }
    }
}
