//! Cold, from a source on this machine: many small files and a large one, each read whole through a front end, against
//! `cp -r` of the source and a read of the copied image through the kernel's own EROFS.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::super::erofs::spent::timed;
use super::super::larder::{Larder, text};
use super::super::native::NativeMount;
use super::super::stats::{Row, Target, median};
use super::super::warm::{copy_backing_files, random_file};
use super::FRONT_ENDS;

const SMALL_FILES: usize = 3_000;
const SMALL_BYTES: u64 = 10_000;
const LARGE_BYTES: u64 = 1 << 30;
/// Each takes seconds.
const ROUNDS_MAX: usize = 3;

/// Measures both trees.
pub fn run(binary: &Path, dir: &Path, rounds: usize) -> anyhow::Result<Vec<Row>> {
    let (small, large) = (dir.join("small"), dir.join("large"));
    for tree in [&small, &large] {
        std::fs::create_dir(tree)?;
    }
    for number in 0..SMALL_FILES {
        random_file(&small.join(number.to_string()), SMALL_BYTES)?;
    }
    random_file(&large.join("file"), LARGE_BYTES)?;
    let mut rows = Vec::new();
    for (tree, name) in [(&small, "3,000 small files"), (&large, "one file of 1 GiB")] {
        rows.extend(Sample::make(binary, tree)?.compare(name, rounds.clamp(1, ROUNDS_MAX))?);
    }
    Ok(rows)
}

/// A tree and its image, uncompressed: `cp` decodes nothing either.
struct Sample<'a> {
    binary: &'a Path,
    tree: &'a Path,
    image: String,
    bytes: u64,
}

impl<'a> Sample<'a> {
    fn make(binary: &'a Path, tree: &'a Path) -> anyhow::Result<Self> {
        let image = format!("oci:{}", text(&tree.with_extension("layout"))?);
        let source = format!("dir:{}", text(tree)?);
        timed(Command::new(binary).args(["build", "--compression", "none", &source, &image]))?;
        let (bytes, _) = read_all(tree)?;
        Ok(Self { binary, tree, image, bytes })
    }

    /// Takes turns: peer, then each front end.
    fn compare(&self, name: &str, rounds: usize) -> anyhow::Result<Vec<Row>> {
        let mut theirs = Vec::new();
        let mut ours: Vec<(&str, Vec<f64>, f64)> = Vec::new();
        for _ in 0..rounds {
            for front_end in FRONT_ENDS {
                let (took, requests, peer) = match self.lazily(front_end) {
                    Ok(read) => read,
                    Err(error) => {
                        eprintln!("bench: without {front_end}: {error:#}");
                        continue;
                    }
                };
                theirs.push((self.copy()? + peer).as_secs_f64());
                match ours.iter_mut().find(|(known, ..)| *known == front_end) {
                    Some((_, samples, _)) => samples.push(took.as_secs_f64()),
                    None => ours.push((front_end, vec![took.as_secs_f64()], requests)),
                }
            }
        }
        let theirs = median(theirs);
        let row = |(front_end, samples, requests): (&str, Vec<f64>, f64)| {
            let ours = median(samples);
            let mib = self.bytes as f64 / f64::from(1 << 20);
            Row {
                name: format!("{front_end}, cold: {name}, {:.2} requests a MiB", requests / mib),
                larder: format!("{ours:.3} s"),
                peer: format!("{theirs:.3} s"),
                figure: ours / theirs,
                target: Target::AtMost(1.5),
            }
        };
        Ok(ours.into_iter().map(row).collect())
    }

    fn copy(&self) -> anyhow::Result<Duration> {
        rustix::fs::sync();
        let copy = self.tree.with_extension("copy");
        let took = timed(Command::new("cp").arg("-r").args([self.tree, &copy]))?;
        std::fs::remove_dir_all(copy)?;
        Ok(took.wall)
    }

    /// Reads everything through a new daemon with an empty cache: how long that takes, with how many requests, and how
    /// long it takes through the kernel from copies of what is in the cache then.
    fn lazily(&self, front_end: &str) -> anyhow::Result<(Duration, f64, Duration)> {
        let dir = tempfile::tempdir_in(self.tree.parent().unwrap_or(self.tree))?;
        let larder = Larder::new(self.binary, dir.path());
        let target = dir.path().join("mnt");
        larder.mount_through(front_end, &self.image, &target)?;
        rustix::fs::sync();
        let (bytes, took) = read_all(&target)?;
        anyhow::ensure!(bytes == self.bytes, "{bytes} of {} bytes were read", self.bytes);
        let requests = larder.status()?["mounts"][0]["requests"].as_f64().unwrap_or(f64::NAN);
        larder.wait_until_complete()?;
        let copies = copy_backing_files(&larder, dir.path())?;
        let native = NativeMount::new(&copies[1], &copies[..1], &dir.path().join("native"))?;
        let (_, peer) = read_all(native.target())?;
        Ok((took, requests, peer))
    }
}

/// Reads every file below a directory that has no directories in it.
fn read_all(dir: &Path) -> anyhow::Result<(u64, Duration)> {
    let mut buffer = vec![0; 1 << 20];
    let (begun, mut bytes) = (Instant::now(), 0);
    for entry in std::fs::read_dir(dir)? {
        let mut file = std::fs::File::open(entry?.path())?;
        loop {
            match std::io::Read::read(&mut file, &mut buffer)? {
                0 => break,
                len => bytes += len as u64,
            }
        }
    }
    Ok((bytes, begun.elapsed()))
}
