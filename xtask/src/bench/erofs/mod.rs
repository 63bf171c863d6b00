//! The EROFS tools, against Debian's newest erofs-utils on the same images: medians of runs that take turns.
//!
//! One tree of small and large files is written by both sides with every codec; then once for each codec by Debian's
//! `mkfs.erofs`, and what is measured is what both sides do with that. `EROFS_UTILS` names a folder with a newer erofs-utils than that on the path.

mod peer;
mod read;
mod write;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use super::stats::Row;
use peer::Peer;

/// How the tree is written: a name, and the options of `mkfs.erofs`.
const CODECS: [(&str, &[&str]); 4] = [
    ("plain", &[]),
    ("lz4", &["-zlz4", "-C65536"]),
    ("deflate", &["-zdeflate", "-C65536"]),
    ("zstd", &["-zzstd", "-C65536"]),
];

/// Runs the benchmark with `binary`, in `dir`.
pub fn run(binary: &Path, dir: &Path, trees: &[PathBuf], rounds: usize) -> anyhow::Result<Vec<Row>> {
    let peer = Peer::find()?;
    let tree = gather(dir, trees)?;
    let mut rows = write::run(&peer, dir, &tree, rounds)?;
    for (codec, options) in CODECS {
        let image = dir.join(format!("{codec}.erofs"));
        let status = Command::new(peer.tool("mkfs.erofs"))
            .args(["--quiet", "-T0"])
            .args(options)
            .args([&image, &tree])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .context("mkfs.erofs could not be started")?;
        ensure!(status.success(), "mkfs.erofs {options:?} failed with {status}");
        rows.extend(read::run(binary, &peer, dir, codec, &image, rounds)?);
        std::fs::remove_file(image)?;
    }
    std::fs::remove_dir_all(tree)?;
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
