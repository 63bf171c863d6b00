//! What a program does with a mounted image.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::ensure;

use super::super::warm::{Places, read_through};

/// Names in the image.
pub const FILE: &str = "file";
pub const MANY: &str = "many";
pub const PROGRAM: &str = "program";
/// Large enough to last some tens of milliseconds, small enough to stay in the page cache.
pub const FILE_BYTES: u64 = 256 << 20;
/// Entries of the large directory.
pub const FILES: usize = 10_000;

const RANDOM_READS: usize = 50_000;

/// One thing to do in a mounted image; says how long it took.
pub struct Deed {
    /// As it stands in the table.
    pub name: &'static str,
    /// How often to do it where all of it is in the kernel's caches, so that it lasts long enough.
    pub times: usize,
    /// Does it so often, below this directory.
    pub run: fn(&Path, usize) -> anyhow::Result<Duration>,
}

/// All of them.
pub const DEEDS: [Deed; 5] = [
    Deed { name: "sequential read", times: 1, run: |root, _| read_through(&root.join(FILE)) },
    Deed { name: "random 4 KiB reads", times: 1, run: |root, _| read_at_random(root) },
    Deed { name: "stat of 10,000 files", times: 5, run: stat_all },
    Deed { name: "readdir of 10,000 entries", times: 10, run: list },
    Deed { name: "exec of a large program", times: 20, run: start },
];

fn read_at_random(root: &Path) -> anyhow::Result<Duration> {
    let file = File::open(root.join(FILE))?;
    let (mut buffer, mut places) = ([0; 4096], Places::new(FILE_BYTES));
    let begun = Instant::now();
    for _ in 0..RANDOM_READS {
        file.read_exact_at(&mut buffer, places.next())?;
    }
    Ok(begun.elapsed())
}

fn stat_all(root: &Path, times: usize) -> anyhow::Result<Duration> {
    let paths: Vec<_> = (0..FILES).map(|number| root.join(MANY).join(number.to_string())).collect();
    let begun = Instant::now();
    for _ in 0..times {
        for path in &paths {
            std::fs::metadata(path)?;
        }
    }
    Ok(begun.elapsed())
}

fn list(root: &Path, times: usize) -> anyhow::Result<Duration> {
    let dir = root.join(MANY);
    let begun = Instant::now();
    for _ in 0..times {
        let entries = std::fs::read_dir(&dir)?.count();
        ensure!(entries == FILES, "{}: {entries} entries", dir.display());
    }
    Ok(begun.elapsed())
}

fn start(root: &Path, times: usize) -> anyhow::Result<Duration> {
    let program = root.join(PROGRAM);
    let begun = Instant::now();
    for _ in 0..times {
        let ended = Command::new(&program).arg("--version").stdout(Stdio::null()).status()?;
        ensure!(ended.success(), "{}: {ended}", program.display());
    }
    Ok(begun.elapsed())
}
