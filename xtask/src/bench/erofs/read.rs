//! Extracting, checking, and reading through FUSE.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use rustix::mount::{UnmountFlags, unmount};

use super::super::stats::{Row, Target, median};
use super::peer::{Peer, forget_caches, timed, warm};

/// Runs the three measurements on one image.
pub fn run(
    binary: &Path,
    peer: &Peer,
    dir: &Path,
    codec: &str,
    image: &Path,
    rounds: usize,
) -> anyhow::Result<Vec<Row>> {
    Ok(vec![
        extract(binary, peer, dir, codec, image, rounds)?,
        fsck(binary, peer, codec, image, rounds)?,
        fuse(binary, peer, dir, codec, image, rounds)?,
    ])
}

/// Takes turns and compares medians: how many times as fast Larder is.
fn turns(
    name: String,
    target: f64,
    rounds: usize,
    mut ours: impl FnMut() -> anyhow::Result<Duration>,
    mut theirs: impl FnMut() -> anyhow::Result<Duration>,
) -> anyhow::Result<Row> {
    let (mut here, mut there) = (Vec::new(), Vec::new());
    for _ in 0..rounds.max(1) {
        here.push(ours()?.as_secs_f64());
        there.push(theirs()?.as_secs_f64());
    }
    let (here, there) = (median(here), median(there));
    Ok(Row {
        name,
        larder: format!("{here:.2} s"),
        peer: format!("{there:.2} s"),
        figure: there / here,
        target: Target::AtLeast(target),
    })
}

fn extract(
    binary: &Path,
    peer: &Peer,
    dir: &Path,
    codec: &str,
    image: &Path,
    rounds: usize,
) -> anyhow::Result<Row> {
    let out = dir.join("out");
    let run = |command: &mut Command| {
        // What the last run wrote must not be written back during this one.
        rustix::fs::sync();
        warm(image)?;
        let took = timed(command)?;
        std::fs::remove_dir_all(&out)?;
        Ok(took)
    };
    let mut argument = std::ffi::OsString::from("--extract=");
    argument.push(&out);
    turns(
        format!("extract, {codec}"),
        2.0,
        rounds,
        || run(Command::new(binary).args(["erofs", "extract", "--no-xattrs"]).args([image, &out])),
        || run(Command::new(peer.tool("fsck.erofs")).arg(&argument).arg(image)),
    )
}

fn fsck(binary: &Path, peer: &Peer, codec: &str, image: &Path, rounds: usize) -> anyhow::Result<Row> {
    warm(image)?;
    turns(
        format!("fsck with contents, {codec}"),
        1.0,
        rounds,
        || timed(Command::new(binary).args(["erofs", "fsck"]).arg(image)),
        || timed(Command::new(peer.tool("fsck.erofs")).arg("--extract").arg(image)),
    )
}

fn fuse(
    binary: &Path,
    peer: &Peer,
    dir: &Path,
    codec: &str,
    image: &Path,
    rounds: usize,
) -> anyhow::Result<Row> {
    let at = dir.join("fuse");
    std::fs::create_dir_all(&at)?;
    let run = |command: &mut Command| {
        forget_caches();
        warm(image)?;
        timed(command.args([image, &at]))?;
        let took = read_tree(&at);
        unmount(&at, UnmountFlags::empty()).context("unmounting")?;
        took
    };
    turns(
        format!("whole tree through FUSE, {codec}"),
        2.0,
        rounds,
        || run(Command::new(binary).arg("erofsfuse")),
        || run(&mut Command::new(peer.tool("erofsfuse"))),
    )
}

/// Reads every file once, as a program that copies the tree would.
fn read_tree(at: &Path) -> anyhow::Result<Duration> {
    let start = std::time::Instant::now();
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
