//! Extracting, checking, and reading through FUSE.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::mount::{UnmountFlags, unmount};

use super::super::stats::Row;
use super::Bench;
use super::disk::Disk;
use super::peer::{forget_caches, warm};
use super::spent::{Faster, Spent, end, of_children, timed, turns};

/// How long a file system in user space may take to appear.
const MOUNT_LIMIT: Duration = Duration::from_secs(30);

/// The names of the three measurements.
pub fn names(codec: &str) -> [String; 3] {
    ["extract", "fsck with contents", "whole tree through FUSE"].map(|what| format!("{what}, {codec}"))
}

/// Runs those that are wanted on one image.
pub fn run(bench: &Bench<'_>, codec: &str, image: &Path) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (name, run) in names(codec).iter().zip([extract, fsck, fuse]) {
        if bench.wants(name) {
            rows.extend(run(bench, name, image)?);
        }
    }
    Ok(rows)
}

fn extract(bench: &Bench<'_>, name: &str, image: &Path) -> anyhow::Result<Vec<Row>> {
    let disk = Disk::make(bench.dir)?;
    let out = disk.dir().join("out");
    let run = |command: &mut Command| {
        // What the last run wrote must not be written back during this one.
        rustix::fs::sync();
        warm(image)?;
        let spent = timed(command)?;
        std::fs::remove_dir_all(&out)?;
        Ok(spent)
    };
    let mut argument = std::ffi::OsString::from("--extract=");
    argument.push(&out);
    turns(
        name,
        // With two cores.
        Faster::Clock(2.0),
        bench.rounds,
        || run(Command::new(bench.binary).args(["erofs", "extract", "--no-xattrs"]).args([image, &out])),
        || run(Command::new(bench.peer.tool("fsck.erofs")).arg(&argument).arg(image)),
    )
}

fn fsck(bench: &Bench<'_>, name: &str, image: &Path) -> anyhow::Result<Vec<Row>> {
    warm(image)?;
    turns(
        name,
        // All cores share the work.
        Faster::Clock(1.0),
        bench.rounds,
        || timed(Command::new(bench.binary).args(["erofs", "fsck"]).arg(image)),
        || timed(Command::new(bench.peer.tool("fsck.erofs")).arg("--extract").arg(image)),
    )
}

/// Processor time is that of the server alone: the reader, and the kernel in its name, do the same on both sides.
fn fuse(bench: &Bench<'_>, name: &str, image: &Path) -> anyhow::Result<Vec<Row>> {
    let at = bench.dir.join("fuse");
    std::fs::create_dir_all(&at)?;
    let run = |command: &mut Command| {
        forget_caches();
        warm(image)?;
        let before = of_children()?;
        let command = command.arg("-f").args([image, &at]).stdin(Stdio::null()).stdout(Stdio::null());
        let shown = format!("{command:?}");
        let mut server = command.stderr(Stdio::piped()).spawn().with_context(|| shown.clone())?;
        let took = wait_until_mounted(&mut server, &at).and_then(|()| read_tree(&at));
        // Without a mount the server has ended, or never will.
        if let Err(error) = unmount(&at, UnmountFlags::empty()) {
            server.kill()?;
            took?;
            return Err(error).context("unmounting");
        }
        end(server, &shown)?;
        Ok(Spent { wall: took?, processor: of_children()? - before })
    };
    turns(
        name,
        // What a reader waits for; both decode with the same libraries.
        Faster::Clock(2.0),
        bench.rounds,
        || run(Command::new(bench.binary).arg("erofsfuse")),
        || run(&mut Command::new(bench.peer.tool("erofsfuse"))),
    )
}

fn wait_until_mounted(server: &mut std::process::Child, at: &Path) -> anyhow::Result<()> {
    let device = |path: &Path| std::fs::metadata(path).map(|meta| std::os::unix::fs::MetadataExt::dev(&meta));
    let above = device(at.parent().context("the mount point has no parent")?)?;
    let start = Instant::now();
    while device(at)? == above {
        ensure!(server.try_wait()?.is_none(), "the server ended before it had mounted");
        ensure!(start.elapsed() < MOUNT_LIMIT, "nothing was mounted within {MOUNT_LIMIT:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Reads every file once, as a program that copies the tree would.
fn read_tree(at: &Path) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let mut buffer = vec![0; 1 << 17];
    let mut todo = vec![at.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                todo.push(entry.path());
            } else if kind.is_file() {
                let mut file = std::fs::File::open(entry.path())?;
                while std::io::Read::read(&mut file, &mut buffer)? > 0 {}
            }
        }
    }
    Ok(start.elapsed())
}
