//! `cargo xtask bench`: Larder against a peer, measured side by side in one run.
//!
//! Absolute times mean nothing on shared machines. Every figure is a ratio of medians (or a difference, where the
//! target is one), from rounds in which Larder and its peer take turns.

mod build;
mod cache;
mod cold;
mod erofs;
mod fault;
mod frontends;
mod larder;
mod native;
mod pinned;
mod stats;
mod warm;

use std::path::PathBuf;

use anyhow::bail;

use stats::Row;

/// What to measure.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Benchmarks to run; all of them but `cache`, `erofs` and `frontends` without one.
    #[arg(value_enum)]
    only: Vec<Case>,
    /// Directory for images, caches and mounts; on ext4, xfs or btrfs, with some gigabytes free.
    #[arg(long, default_value = "/var/tmp")]
    scratch: PathBuf,
    /// The tree that `build` packs.
    #[arg(long, default_value = "/usr")]
    tree: PathBuf,
    /// The trees that `erofs` puts into one image.
    #[arg(long, default_values = ["/usr/include", "/usr/bin"])]
    erofs_trees: Vec<PathBuf>,
    /// Of `erofs`: only the measurements whose names have one of these words in them, as in `mkfs zstd`.
    #[arg(long)]
    erofs_only: Vec<String>,
    /// Rounds of each measurement.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Objects of the cache that `cache` measures.
    #[arg(long, default_value_t = 1_000_000)]
    objects: u64,
    /// Parts of `cache` to measure; all of them without one.
    #[arg(long, value_enum)]
    part: Vec<cache::Part>,
    /// Prints the rows as JSON.
    #[arg(long)]
    json: bool,
}

/// One benchmark.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Case {
    /// Reads of a complete image through fanotify, against a plain mount of the same files.
    Warm,
    /// A fault whose bytes are present, against a read without a mark.
    Fault,
    /// A cold sequential read over a shaped link, against a download of the same bytes.
    Cold,
    /// Building an image, against mkfs.erofs.
    Build,
    /// What programs do with a complete image, through each front end, against the kernel's EROFS and erofsfuse.
    Frontends,
    /// The EROFS tools, against erofs-utils; takes some minutes.
    Erofs,
    /// The cache core: decisions, look-ups, culling, filling. By itself: this program is built anew for it.
    Cache,
}

const ALL: [Case; 4] = [Case::Warm, Case::Fault, Case::Cold, Case::Build];

/// Runs the benchmarks and prints their rows.
pub fn run(args: &Args) -> anyhow::Result<()> {
    crate::packages::install()?;
    if args.only.contains(&Case::Cache) {
        anyhow::ensure!(args.only == [Case::Cache], "`cache` is measured by itself");
        return tell(&cache::run(args)?, args.json);
    }
    let built = crate::build::executables(&["--release", "--package", "larder"])?;
    let larder = built.named("larder")?;
    let scratch = tempfile::Builder::new().prefix("larder-bench-").tempdir_in(&args.scratch)?;
    let mut rows = Vec::new();
    for case in if args.only.is_empty() { &ALL[..] } else { &args.only } {
        eprintln!("bench: {case:?}");
        let dir = scratch.path().join(format!("{case:?}").to_lowercase());
        std::fs::create_dir(&dir)?;
        rows.extend(match case {
            Case::Warm => warm::run(larder, &dir, args.rounds)?,
            Case::Fault => fault::run(larder, &dir, args.rounds)?,
            Case::Cold => cold::run(larder, &dir)?,
            Case::Cache => Vec::new(),
            Case::Frontends => frontends::run(larder, &dir, args.rounds)?,
            Case::Erofs => erofs::run(larder, &dir, &args.erofs_trees, args.rounds, &args.erofs_only)?,
            Case::Build => build::run(larder, &dir, &args.tree, args.rounds.min(3))?,
        });
    }
    tell(&rows, args.json)
}

/// Prints the rows; fails when one misses its target.
fn tell(rows: &[Row], json: bool) -> anyhow::Result<()> {
    stats::print(rows, json)?;
    let targets: Vec<bool> = rows.iter().filter_map(Row::holds).collect();
    let missed = targets.iter().filter(|holds| !**holds).count();
    if missed > 0 {
        bail!("{missed} of {} targets missed", targets.len());
    }
    Ok(())
}
