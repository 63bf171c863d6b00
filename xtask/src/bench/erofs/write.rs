//! Writing images: the writer (by its example `image`) against `mkfs.erofs`, with the same codec and pcluster.

use std::path::Path;
use std::process::Command;

use anyhow::ensure;
use rustix::thread::{CpuSet, sched_getaffinity};

use super::super::stats::{Row, Target, say};
use super::Bench;
use super::spent::{Faster, Spent, compare, timed};

/// A codec as both know it, bytes of a pcluster, and how many times faster Larder must be on one core.
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
/// What two cores must gain over one.
const TWO_CORES: f64 = 1.7;
/// Rounds of each codec: the slow ones take half a minute each.
const ROUNDS_MAX: usize = 5;
/// What an image may be larger.
const SIZE: f64 = 1.01;

/// Writes `tree`, turn and turn about, with the codecs that are wanted.
pub fn run(bench: &Bench<'_>, tree: &Path) -> anyhow::Result<Vec<Row>> {
    let name = |codec: &str, pcluster: u32| format!("mkfs {codec} {pcluster}");
    let cases = CASES.iter().filter(|(codec, pcluster, _)| bench.wants(&name(codec, *pcluster)));
    let cases: Vec<_> = cases.collect();
    if cases.is_empty() {
        return Ok(Vec::new());
    }
    let built = crate::build::executables(&["--release", "--package", "larder-erofs", "--example", "image"])?;
    let writer = built.named("image")?;
    let image = bench.dir.join("written.erofs");
    // Both programs have more threads than those that encode: what they get is decided by the cores.
    let cores = cores()?;
    let on_cores = |count: usize, program: &Path| {
        let mut command = Command::new("taskset");
        command.args(["--cpu-list", &cores[..count].join(",")]).arg(program);
        command
    };
    let write = |command: &mut Command| -> anyhow::Result<(Spent, u64)> {
        let spent = timed(command)?;
        let bytes = std::fs::metadata(&image)?.len();
        std::fs::remove_file(&image)?;
        Ok((spent, bytes))
    };
    let ours = |cores: usize, codec: &str, pcluster: u32| {
        let numbers = [pcluster.to_string(), cores.to_string()];
        write(on_cores(cores, writer).arg(tree).arg(&image).arg(codec).args(numbers))
    };
    let theirs = |codec: &str, pcluster: u32| {
        let options = [format!("-z{codec}"), format!("-C{pcluster}")];
        let mut command = on_cores(1, &bench.peer.tool("mkfs.erofs"));
        write(command.args(["--quiet", "--workers=1"]).args(options).arg(&image).arg(tree))
    };
    let mut rows = Vec::new();
    for &&(codec, pcluster, faster) in &cases {
        let (mut one, mut two, mut there, mut bytes) = (Vec::new(), Vec::new(), Vec::new(), (0, 0));
        for _ in 0..bench.rounds.clamp(1, ROUNDS_MAX) {
            let (spent, len) = theirs(codec, pcluster)?;
            there.push(spent);
            bytes.1 = len;
            let (spent, len) = ours(1, codec, pcluster)?;
            one.push(spent);
            bytes.0 = len;
            two.push(ours(2, codec, pcluster)?.0);
        }
        let name = name(codec, pcluster);
        let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
        let first = rows.len();
        rows.extend(compare(&format!("{name}: one core"), Faster::Both(faster), &one, &there));
        // Two cores spend as much processor time as one: only the clock tells what they gain.
        for (against, base) in [("one", &one), ("one of theirs", &there)] {
            let name = format!("{name}: two cores, against {against}");
            rows.extend(compare(&name, Faster::Clock(TWO_CORES), &two, base));
        }
        rows.push(Row {
            name: format!("{name}: size"),
            larder: megabytes(bytes.0),
            peer: megabytes(bytes.1),
            figure: bytes.0 as f64 / bytes.1 as f64,
            target: Target::AtMost(SIZE),
        });
        say(&rows[first..]);
    }
    Ok(rows)
}

/// Two of the cores that this process may use.
fn cores() -> anyhow::Result<Vec<String>> {
    let allowed = sched_getaffinity(None)?;
    let cores: Vec<_> = (0..CpuSet::MAX_CPU)
        .filter(|core| allowed.is_set(*core))
        .map(|core| core.to_string())
        .take(2)
        .collect();
    ensure!(cores.len() == 2, "the writers are measured on one core and on two: there is one");
    Ok(cores)
}
