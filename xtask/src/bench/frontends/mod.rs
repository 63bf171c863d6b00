//! The front ends beside each other.

mod cold;
mod deeds;
mod many;
mod peer;
mod restart;
mod warm;

use std::path::Path;

use super::stats::Row;

/// The front ends, each measured if it works here.
const FRONT_ENDS: [&str; 3] = ["fanotify", "fuse-blob", "fuse"];

/// What is measured, each in a directory of its own.
type Part = fn(&Path, &Path, usize) -> anyhow::Result<Vec<Row>>;

const PARTS: [(&str, Part); 4] =
    [("warm", warm::run), ("cold", cold::run), ("restart", restart::run), ("many", many::run)];

/// Runs the benchmark.
pub fn run(binary: &Path, dir: &Path, rounds: usize) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (name, part) in PARTS {
        eprintln!("bench: front ends, {name}");
        let dir = dir.join(name);
        std::fs::create_dir(&dir)?;
        rows.extend(part(binary, &dir, rounds)?);
        std::fs::remove_dir_all(&dir)?;
    }
    Ok(rows)
}
