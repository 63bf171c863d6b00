//! Writing images: the writer (by its example `image`) against `mkfs.erofs`, with the same codec and pcluster.

use std::path::Path;
use std::process::Command;

use super::super::stats::{Row, Target, median};
use super::peer::{Peer, timed};

/// A codec as both know it, bytes of a pcluster, and how many times faster one thread must be.
const CASES: [(&str, u32, f64); 8] = [
    ("lz4", 4096, 1.0),
    ("lz4", 65536, 1.0),
    ("lz4hc", 65536, 1.0),
    ("deflate", 65536, 1.0),
    ("libdeflate", 65536, 1.0),
    ("lzma", 65536, 1.0),
    ("zstd", 4096, 3.0),
    ("zstd", 65536, 3.0),
];
/// What two threads must gain over one.
const TWO_THREADS: f64 = 1.7;
/// What an image may be larger.
const SIZE: f64 = 1.01;

/// Writes `tree` in `dir`, turn and turn about.
pub fn run(peer: &Peer, dir: &Path, tree: &Path, rounds: usize) -> anyhow::Result<Vec<Row>> {
    let built = crate::build::executables(&["--release", "--package", "larder-erofs", "--example", "image"])?;
    let writer = built.named("image")?;
    let image = dir.join("written.erofs");
    let write = |command: &mut Command| -> anyhow::Result<(f64, u64)> {
        let took = timed(command)?;
        let bytes = std::fs::metadata(&image)?.len();
        std::fs::remove_file(&image)?;
        Ok((took.as_secs_f64(), bytes))
    };
    let ours = |codec: &str, pcluster: u32, jobs: u32| {
        let numbers = [pcluster.to_string(), jobs.to_string()];
        write(Command::new(writer).arg(tree).arg(&image).arg(codec).args(numbers))
    };
    let theirs = |codec: &str, pcluster: u32| {
        let options = [format!("-z{codec}"), format!("-C{pcluster}")];
        let mut command = Command::new(peer.tool("mkfs.erofs"));
        write(command.args(["--quiet", "--workers=1"]).args(options).arg(&image).arg(tree))
    };
    let mut rows = Vec::new();
    for (codec, pcluster, faster) in CASES {
        let (mut one, mut two, mut there, mut bytes) = (Vec::new(), Vec::new(), Vec::new(), (0, 0));
        for _ in 0..rounds.max(1) {
            let (took, len) = theirs(codec, pcluster)?;
            there.push(took);
            bytes.1 = len;
            let (took, len) = ours(codec, pcluster, 1)?;
            one.push(took);
            bytes.0 = len;
            two.push(ours(codec, pcluster, 2)?.0);
        }
        let (one, two, there) = (median(one), median(two), median(there));
        let row = |what: &str, larder: String, peer: String, figure, target| Row {
            name: format!("mkfs {codec} {pcluster}: {what}"),
            larder,
            peer,
            figure,
            target,
        };
        let seconds = |seconds: f64| format!("{seconds:.2} s");
        let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
        let size = bytes.0 as f64 / bytes.1 as f64;
        rows.extend([
            row("one thread", seconds(one), seconds(there), there / one, Target::AtLeast(faster)),
            row("two, against one", seconds(two), seconds(one), one / two, Target::AtLeast(TWO_THREADS)),
            row("size", megabytes(bytes.0), megabytes(bytes.1), size, Target::AtMost(SIZE)),
        ]);
    }
    Ok(rows)
}
