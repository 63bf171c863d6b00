//! [`Disk`]: a new file system for what is extracted.
//!
//! On the one that the benchmark happens to stand on, every run would pay for those before it. An ext4 without a journal,
//! as many virtual machines have, gives no inode out again for a minute or more and passes all of those that were
//! deleted since for each file that is made: `recently_deleted()`, fs/ext4/ialloc.c (v6.18). A second extraction of the
//! same ten thousand files then takes the kernel five times as long, whoever extracts.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::ensure;
use rustix::mount::{UnmountFlags, unmount};

/// Room for what the largest trees extract to; what is not written takes none.
const BYTES: u64 = 16 << 30;

/// An ext4 in a file, mounted; both are gone when it is dropped.
pub struct Disk {
    file: PathBuf,
    dir: PathBuf,
}

impl Disk {
    /// Makes one below `dir`; needs root and a loop device.
    pub fn make(dir: &Path) -> anyhow::Result<Self> {
        let disk = Self { file: dir.join("disk.img"), dir: dir.join("disk") };
        File::create(&disk.file)?.set_len(BYTES)?;
        fs::create_dir_all(&disk.dir)?;
        // Tables that are written later are written while something is measured.
        let whole = "lazy_itable_init=0,lazy_journal_init=0,nodiscard";
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0", "-E", whole]).arg(&disk.file))?;
        run(Command::new("mount").args(["-o", "loop"]).args([&disk.file, &disk.dir]))?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = unmount(&self.dir, UnmountFlags::DETACH);
        let _ = fs::remove_file(&self.file);
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output()?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
