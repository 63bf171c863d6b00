//! [`Disk`]: a small file system of its own under the daemon, which can be full for a while.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::ensure;
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::mount::{UnmountFlags, unmount};

/// Room for three images, twice over.
const BYTES: u64 = 400 << 20;

/// Left when the disk is full: too little for anything, and no zero that `fallocate` refuses.
const LEFT: u64 = 64 << 10;

/// A mounted ext4 in a file.
pub struct Disk {
    dir: PathBuf,
}

impl Disk {
    /// Makes one below `dir`.
    ///
    /// # Errors
    ///
    /// When this host or user cannot: `mkfs.ext4`, a loop device and root are needed.
    pub fn make(dir: &Path) -> anyhow::Result<Self> {
        let (file, dir) = (dir.join("disk.img"), dir.join("disk"));
        File::create(&file)?.set_len(BYTES)?;
        fs::create_dir(&dir)?;
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&file))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&file).arg(&dir))?;
        Ok(Self { dir })
    }

    /// Where it is mounted.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Takes what is free, until [`drain`](Self::drain).
    pub fn fill(&self) -> anyhow::Result<()> {
        let ballast = File::create(self.ballast())?;
        let found = statvfs(&self.dir)?;
        let free = (found.f_bavail * found.f_frsize).saturating_sub(LEFT);
        if free > 0 {
            // Larder may take some of it at the same time: the disk is then as full as it can be.
            let _ = fallocate(&ballast, FallocateFlags::empty(), 0, free);
        }
        Ok(())
    }

    /// Gives it back.
    pub fn drain(&self) -> anyhow::Result<()> {
        Ok(fs::remove_file(self.ballast())?)
    }

    fn ballast(&self) -> PathBuf {
        self.dir.join("ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = unmount(&self.dir, UnmountFlags::DETACH);
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output()?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
