//! Building an image of a large tree, against Debian's mkfs.erofs on the same tree with the same chunk size.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::larder::text;
use super::stats::{Row, Target, median};

/// What one run took, and the most memory it had.
pub(super) struct Run {
    took: Duration,
    pub resident_max_bytes: u64,
}

/// Runs the benchmark: uncompressed against uncompressed, and Larder's default beside them.
pub fn run(binary: &Path, dir: &Path, tree: &Path, rounds: usize) -> anyhow::Result<Vec<Row>> {
    let source = format!("dir:{}", text(tree)?);
    let larder = |extra: &[&str]| {
        let layout = dir.join("layout");
        let mut command = Command::new(binary);
        command.args(["build", &source]).arg(format!("oci:{}", layout.display())).args(extra);
        let run = measure(command);
        let _ = std::fs::remove_dir_all(layout);
        run
    };
    let mkfs = || {
        let (blob, meta) = (dir.join("blob"), dir.join("meta"));
        let mut command = Command::new("mkfs.erofs");
        command.arg("--chunksize=65536").arg(format!("--blobdev={}", blob.display())).arg(&meta).arg(tree);
        let run = measure(command);
        let _ = std::fs::remove_file(blob);
        let _ = std::fs::remove_file(meta);
        run
    };
    let (mut raw, mut zstd, mut peer, mut resident) = (Vec::new(), Vec::new(), Vec::new(), 0);
    // The first pass warms the page cache for everybody.
    mkfs()?;
    for _ in 0..rounds.max(1) {
        let run = larder(&["--compression", "none"])?;
        resident = resident.max(run.resident_max_bytes);
        raw.push(run.took.as_secs_f64());
        peer.push(mkfs()?.took.as_secs_f64());
        let run = larder(&[])?;
        resident = resident.max(run.resident_max_bytes);
        zstd.push(run.took.as_secs_f64());
    }
    let (raw, zstd, peer) = (median(raw), median(zstd), median(peer));
    let row = |name: &str, ours: f64| Row {
        name: name.into(),
        larder: format!("{ours:.1} s"),
        peer: format!("{peer:.1} s"),
        figure: peer / ours,
        target: Target::AtLeast(1.0),
    };
    let resident = resident as f64 / 1e6;
    Ok(vec![
        row("build, uncompressed, against mkfs.erofs", raw),
        Row { target: Target::None, ..row("build, default (zstd), against mkfs.erofs", zstd) },
        Row {
            name: "build, most memory (MB)".into(),
            larder: format!("{resident:.0} MB"),
            peer: "-".into(),
            figure: resident,
            target: Target::AtMost(200.0),
        },
    ])
}

/// Runs a command to its end.
pub(super) fn measure(mut command: Command) -> anyhow::Result<Run> {
    let start = Instant::now();
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("{} could not be started", command.get_program().display()))?;
    let resident_max_bytes = watch(&mut child)?;
    let status = child.wait()?;
    let took = start.elapsed();
    if !status.success() {
        bail!("{} failed with {status}", command.get_program().display());
    }
    Ok(Run { took, resident_max_bytes })
}

/// Waits for the child and returns the highest resident memory that it was seen with.
fn watch(child: &mut Child) -> anyhow::Result<u64> {
    let path = format!("/proc/{}/status", child.id());
    let mut most = 0;
    while child.try_wait()?.is_none() {
        let status = std::fs::read_to_string(&path).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        most = most.max(kilobytes.unwrap_or(0) * 1024);
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(most)
}
