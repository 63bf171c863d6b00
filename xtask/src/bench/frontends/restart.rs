//! The death of the worker: how much longer a reader waits for bytes that are not here yet.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};

use super::super::erofs::spent::timed;
use super::super::larder::{Larder, text};
use super::super::stats::{Row, Target, median};
use super::super::warm::random_file;
use super::FRONT_ENDS;

/// Each death is met by a read of a stretch of its own.
const STRETCH_BYTES: u64 = 16 << 20;
/// Milliseconds.
const LIMIT_MS: f64 = 200.0;

/// Kills the worker once a round. The figure is that of the worst round.
pub fn run(binary: &Path, dir: &Path, rounds: usize) -> anyhow::Result<Vec<Row>> {
    let tree = dir.join("tree");
    std::fs::create_dir(&tree)?;
    let rounds = rounds.clamp(1, 9) as u64;
    random_file(&tree.join("file"), 2 * rounds * STRETCH_BYTES)?;
    let image = format!("oci:{}", text(&dir.join("layout"))?);
    timed(Command::new(binary).args(["build", &format!("dir:{}", text(&tree)?), &image]))?;
    let mut rows = Vec::new();
    for front_end in FRONT_ENDS {
        let dir = dir.join(front_end);
        std::fs::create_dir(&dir)?;
        let larder = Larder::new(binary, &dir);
        let target = dir.join("mnt");
        if let Err(error) = larder.mount_through(front_end, &image, &target) {
            eprintln!("bench: without {front_end}: {error:#}");
            continue;
        }
        let file = File::open(target.join("file"))?;
        let (mut calm, mut restarted) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            calm.push(read(&file, 2 * round)?.as_secs_f64() * 1e3);
            kill_worker(&larder)?;
            restarted.push(read(&file, 2 * round + 1)?.as_secs_f64() * 1e3);
            settle(&larder)?;
        }
        let (calm, worst) = (median(calm), restarted.iter().copied().fold(0.0, f64::max));
        rows.push(Row {
            name: format!("{front_end}, worker killed: longer wait of a reader, worst of {rounds} (ms)"),
            larder: format!("{worst:.1} ms (median {:.1})", median(restarted)),
            peer: format!("{calm:.1} ms"),
            figure: worst - calm,
            target: Target::AtMost(LIMIT_MS),
        });
    }
    Ok(rows)
}

/// The first read of a stretch: of bytes that nobody has asked for yet.
fn read(file: &File, stretch: u64) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    file.read_exact_at(&mut [0; 4096], stretch * STRETCH_BYTES + (8 << 20))?;
    Ok(begun.elapsed())
}

fn kill_worker(larder: &Larder) -> anyhow::Result<()> {
    let pid = larder.status()?["worker"]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
    let pid = pid.and_then(Pid::from_raw).context("status names no worker")?;
    Ok(kill_process(pid, Signal::KILL)?)
}

/// Waits until the next worker serves and counts as healthy: one that dies before that is started later each time, so that
/// a crash loop does not spin.
fn settle(larder: &Larder) -> anyhow::Result<()> {
    larder.status()?;
    std::thread::sleep(Duration::from_secs(2));
    Ok(())
}
