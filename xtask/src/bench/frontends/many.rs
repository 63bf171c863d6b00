//! Many images at once: what the daemon takes for them.

use std::path::Path;
use std::process::Command;

use anyhow::Context;

use super::super::erofs::spent::timed;
use super::super::larder::{Larder, text};
use super::super::stats::{Row, Target};
use super::super::warm::random_file;
use super::FRONT_ENDS;

const IMAGES: usize = 200;
/// A few files, one of them of more than one fill.
const FILE_BYTES: u64 = 2 << 20;

/// Mounts them all through each front end, and reads a little of each.
pub fn run(binary: &Path, dir: &Path, _rounds: usize) -> anyhow::Result<Vec<Row>> {
    let layout = dir.join("layout");
    let tree = dir.join("tree");
    std::fs::create_dir(&tree)?;
    for image in 0..IMAGES {
        random_file(&tree.join("file"), FILE_BYTES)?;
        std::fs::write(tree.join("small"), image.to_string())?;
        let (source, to) = (format!("dir:{}", text(&tree)?), reference(&layout, image)?);
        timed(Command::new(binary).args(["build", &source, &to]))?;
    }
    let mut rows = Vec::new();
    for front_end in FRONT_ENDS {
        match measure(binary, dir, &layout, front_end) {
            Ok(measured) => rows.extend(measured),
            Err(error) => eprintln!("bench: without {front_end}: {error:#}"),
        }
    }
    Ok(rows)
}

fn reference(layout: &Path, image: usize) -> anyhow::Result<String> {
    Ok(format!("oci:{}:{image}", text(layout)?))
}

fn measure(binary: &Path, dir: &Path, layout: &Path, front_end: &str) -> anyhow::Result<Vec<Row>> {
    let dir = tempfile::tempdir_in(dir)?;
    let larder = Larder::new(binary, dir.path());
    let mut threads_of_one = 0;
    for image in 0..IMAGES {
        let target = dir.path().join(image.to_string());
        larder.mount_through(front_end, &reference(layout, image)?, &target)?;
        anyhow::ensure!(std::fs::read_to_string(target.join("small"))? == image.to_string());
        anyhow::ensure!(std::fs::read(target.join("file"))?.len() as u64 == FILE_BYTES);
        if image == 0 {
            threads_of_one = threads(&larder)?;
        }
    }
    let status = larder.status()?;
    let resident = |process: &str| status[process]["resident_bytes"].as_f64().unwrap_or(f64::NAN) / 1e6;
    let (worker, keeper, threads) = (resident("worker"), resident("keeper"), threads(&larder)?);
    Ok(vec![
        Row {
            name: format!("{front_end}, {IMAGES} images: worker and keeper, resident (MB)"),
            larder: format!("{worker:.1} + {keeper:.1} MB"),
            peer: "-".into(),
            figure: worker + keeper,
            target: Target::AtMost(60.0),
        },
        Row {
            name: format!("{front_end}, {IMAGES} images: threads for each"),
            larder: format!("{threads} threads"),
            peer: format!("{threads_of_one} with one"),
            figure: threads.saturating_sub(threads_of_one) as f64 / IMAGES as f64,
            // The pool's threads come and go.
            target: Target::AtMost(0.1),
        },
    ])
}

fn threads(larder: &Larder) -> anyhow::Result<usize> {
    let status = larder.status()?;
    let mut count = 0;
    for process in ["worker", "keeper"] {
        let pid = status[process]["pid"].as_u64().with_context(|| format!("status names no {process}"))?;
        count += std::fs::read_dir(format!("/proc/{pid}/task"))?.count();
    }
    Ok(count)
}
