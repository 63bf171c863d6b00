//! [`Disk`]: where the cache of a round lies: a directory on the scratch disk, or a small file system that fills up.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use rustix::mount::{UnmountFlags, unmount};

/// A kind of disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// A directory of the scratch disk: it does not fill up.
    Directory,
    /// A tmpfs.
    Tmpfs,
    /// An ext4 in a file.
    Ext4,
}

/// Size of the small file systems in bytes: less than all objects and versions together.
const SMALL_BYTES: u64 = 16 << 20;

/// A disk, gone when dropped.
pub struct Disk {
    root: PathBuf,
    mounted: bool,
}

impl Disk {
    /// Makes a disk below `dir`.
    pub fn new(kind: Kind, dir: &Path) -> anyhow::Result<Self> {
        let root = dir.join("disk");
        fs::create_dir(&root)?;
        let mut disk = Self { root, mounted: false };
        match kind {
            Kind::Directory => {}
            Kind::Tmpfs => {
                run("mount", &["-t", "tmpfs", "-o", &format!("size={SMALL_BYTES}"), "tmpfs"], &disk.root)?
            }
            Kind::Ext4 => {
                let image = dir.join("disk.img");
                File::create(&image)?.set_len(SMALL_BYTES)?;
                run("mkfs.ext4", &["-q", "-F", "-m", "0"], &image)?;
                run("mount", &["-o", "loop", &image.to_string_lossy()], &disk.root)?;
                fs::remove_file(image)?;
            }
        }
        disk.mounted = kind != Kind::Directory;
        Ok(disk)
    }

    /// Where the cache lies.
    pub fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// Takes space away from the cache, as another program would.
    pub fn squeeze(&self, bytes: u64) {
        let path = self.root.join("ballast");
        let file = File::options().create(true).truncate(false).write(true).open(path);
        // A disk that is full already is what this is for.
        let _ = file.map(|file| rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes));
    }

    /// Gives it back.
    pub fn relax(&self) {
        drop(fs::remove_file(self.root.join("ballast")));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = if self.mounted { unmount(&self.root, UnmountFlags::empty()) } else { Ok(()) };
        if let Err(error) = unmounted {
            eprintln!("torture: {}: {error}", self.root.display());
            let _ = unmount(&self.root, UnmountFlags::DETACH);
        }
        drop(fs::remove_dir_all(&self.root));
    }
}

/// Kinds that can be had here; says why others cannot.
pub fn kinds(dir: &Path) -> Vec<Kind> {
    let can_be_had = |kind: &Kind| match Disk::new(*kind, dir) {
        Ok(_gone_at_once) => true,
        Err(error) => {
            eprintln!("torture: without {kind:?}, which would fill up: {error:#}");
            drop(fs::remove_dir_all(dir.join("disk")));
            false
        }
    };
    [Kind::Directory, Kind::Tmpfs, Kind::Ext4].into_iter().filter(can_be_had).collect()
}

fn run(program: &str, args: &[&str], last: &Path) -> anyhow::Result<()> {
    let output = Command::new(program).args(args).arg(last).output().with_context(|| program.to_owned())?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
