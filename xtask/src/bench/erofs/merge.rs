//! Merging twenty layers with a hundred thousand files, against a second, 150 MB, and `mkfs.erofs` where it can.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::ensure;

use super::super::build::measure;
use super::super::stats::{Row, Target, median};
use super::Bench;
use super::spent::{Faster, compare, timed};

const LAYERS: usize = 20;
const FILES: usize = 5000;
const DIRS: usize = 100;
/// Files that hide one of the layer below.
const HIDING: usize = 250;

const SECONDS: f64 = 1.0;
const MEGABYTES: f64 = 150.0;

/// Merges layers, turn and turn about.
pub fn run(bench: &Bench<'_>) -> anyhow::Result<Vec<Row>> {
    let name = |what: &str| format!("merge {LAYERS} layers, {} files: {what}", LAYERS * FILES);
    let names = ["seconds", "most memory", "plain"].map(name);
    if !names.iter().any(|name| bench.wants(name)) {
        return Ok(Vec::new());
    }
    let (tree, out) = (bench.dir.join("layer"), bench.dir.join("merged.erofs"));
    let (mut packed, mut plain) = (Vec::new(), Vec::new());
    for layer in 0..LAYERS {
        make(&tree, layer)?;
        let image = |kind: &str| bench.dir.join(format!("{layer}.{kind}"));
        packed.push(write(bench.binary, &tree, image("packed"), &["-zlz4", "-Eztailpacking"])?);
        // All that mkfs.erofs 1.9 merges: neither compressed nor with tails behind inodes.
        plain.push(write(bench.binary, &tree, image("plain"), &["-Enoinline_data"])?);
        fs::remove_dir_all(&tree)?;
    }
    let ours = |layers: &[PathBuf]| -> anyhow::Result<Command> {
        if out.exists() {
            fs::remove_file(&out)?;
        }
        let mut command = Command::new(bench.binary);
        command.args(["erofs", "merge"]).arg(&out).args(layers);
        Ok(command)
    };
    let (mut compressed, mut here, mut there) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.rounds.max(1) {
        compressed.push(timed(&mut ours(&packed)?)?.wall.as_secs_f64());
        here.push(timed(&mut ours(&plain)?)?);
        let mut command = Command::new(bench.peer.tool("mkfs.erofs"));
        let theirs = bench.dir.join("theirs.erofs");
        there.push(timed(command.args(["--quiet", "--ovlfs-strip=1"]).arg(theirs).args(&plain))?);
    }
    let resident = measure(ours(&packed)?)?.resident_max_bytes as f64 / 1e6;
    for file in packed.iter().chain(&plain) {
        fs::remove_file(file)?;
    }
    let compressed = median(compressed);
    let [seconds, memory, plain] = names;
    let mut rows = vec![
        Row {
            name: seconds,
            larder: format!("{compressed:.2} s"),
            peer: "refuses".into(),
            figure: compressed,
            target: Target::AtMost(SECONDS),
        },
        Row {
            name: memory,
            larder: format!("{resident:.0} MB"),
            peer: "-".into(),
            figure: resident,
            target: Target::AtMost(MEGABYTES),
        },
    ];
    rows.extend(compare(&plain, Faster::Both(1.0), &here, &there));
    Ok(rows)
}

/// Makes the tree of one layer: files of its own, and some that the layer below has too.
fn make(tree: &Path, layer: usize) -> anyhow::Result<()> {
    for dir in 0..DIRS {
        fs::create_dir_all(tree.join(format!("usr/share/part-{dir:02}")))?;
    }
    let place = |file: usize, layer: usize| {
        tree.join(format!("usr/share/part-{:02}/file-{file:04}-of-layer-{layer:02}", file % DIRS))
    };
    for file in 0..FILES {
        let hiding = file < HIDING && layer > 0;
        let line = format!("line {file} of a file in layer {layer}\n");
        // From a few bytes to twelve kilobytes.
        fs::write(place(file, if hiding { layer - 1 } else { layer }), line.repeat(1 + file % 300))?;
    }
    Ok(())
}

fn write(binary: &Path, tree: &Path, image: PathBuf, options: &[&str]) -> anyhow::Result<PathBuf> {
    let mut command = Command::new(binary);
    command.args(["mkfs.erofs", "--quiet", "-T0"]).args(options).arg(&image).arg(tree);
    let status = command.status()?;
    ensure!(status.success(), "{command:?} failed with {status}");
    Ok(image)
}
