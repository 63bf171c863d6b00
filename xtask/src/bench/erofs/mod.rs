//! The EROFS tools, against Debian's newest erofs-utils on the same images: medians of runs that take turns.
//!
//! One tree of small and large files is written by both sides with every codec; then once for each codec by Debian's
//! `mkfs.erofs`, and what is measured is what both sides do with that. `EROFS_UTILS` names a folder with a newer
//! erofs-utils than that on the path.

mod disk;
mod merge;
pub mod peer;
mod read;
pub mod spent;
mod write;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use super::stats::{Row, say};
use peer::Peer;

/// How the tree is written: a name, and the options of `mkfs.erofs`.
const CODECS: [(&str, &[&str]); 4] = [
    ("plain", &[]),
    ("lz4", &["-zlz4", "-C65536"]),
    ("deflate", &["-zdeflate", "-C65536"]),
    ("zstd", &["-zzstd", "-C65536"]),
];

/// What all measurements share.
pub struct Bench<'a> {
    /// The program `larder`.
    pub binary: &'a Path,
    pub peer: Peer,
    /// Where images are made.
    pub dir: &'a Path,
    pub rounds: usize,
    /// Words of which a measurement's name must have one; all are wanted without any.
    pub only: &'a [String],
}

impl Bench<'_> {
    /// Whether the measurement of that name is to be made.
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|word| name.contains(word.as_str()))
    }
}

/// Runs the benchmark with `binary`, in `dir`: those measurements whose names have one of the words `only` in them.
pub fn run(
    binary: &Path,
    dir: &Path,
    trees: &[PathBuf],
    rounds: usize,
    only: &[String],
) -> anyhow::Result<Vec<Row>> {
    let bench = Bench { binary, peer: Peer::find()?, dir, rounds, only };
    let tree = gather(dir, trees)?;
    let mut rows = merge::run(&bench)?;
    say(&rows);
    rows.extend(write::run(&bench, &tree)?);
    for (codec, options) in CODECS {
        if !read::names(codec).iter().any(|name| bench.wants(name)) {
            continue;
        }
        let image = dir.join(format!("{codec}.erofs"));
        let status = Command::new(bench.peer.tool("mkfs.erofs"))
            .args(["--quiet", "-T0"])
            .args(options)
            .args([&image, &tree])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .context("mkfs.erofs could not be started")?;
        ensure!(status.success(), "mkfs.erofs {options:?} failed with {status}");
        let read = read::run(&bench, codec, &image)?;
        say(&read);
        rows.extend(read);
        std::fs::remove_file(image)?;
    }
    std::fs::remove_dir_all(tree)?;
    ensure!(!rows.is_empty(), "no measurement is called anything like {only:?}");
    Ok(rows)
}

/// Copies the trees into one.
fn gather(dir: &Path, trees: &[PathBuf]) -> anyhow::Result<PathBuf> {
    let all = dir.join("tree");
    std::fs::create_dir(&all)?;
    let status = Command::new("cp").arg("-a").args(trees).arg(&all).status().context("cp")?;
    ensure!(status.success(), "copying {trees:?} failed with {status}");
    Ok(all)
}
