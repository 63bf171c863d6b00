//! `cargo xtask bench cache`: the speed that the cache core must reach.
//!
//! It measures the libraries themselves, so that this program is built again for it, optimised, with them in it and with
//! an allocator that counts.

#[cfg(feature = "cache-bench")]
mod allocations;
#[cfg(feature = "cache-bench")]
mod decision;
#[cfg(feature = "cache-bench")]
mod filling;
#[cfg(feature = "cache-bench")]
mod link;
#[cfg(feature = "cache-bench")]
mod many;
#[cfg(feature = "cache-bench")]
mod trees;

use super::Args;

/// What `cache` measures.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Part {
    /// The decision on present bytes.
    Decision,
    /// Filling from a file of this machine, against `cp`.
    Filling,
    /// A remote tree, against `curl` and the local file system.
    Trees,
    /// Very many objects.
    Many,
}

#[cfg(feature = "cache-bench")]
const ALL: [Part; 4] = [Part::Decision, Part::Filling, Part::Trees, Part::Many];

/// Measures and prints rows.
#[cfg(feature = "cache-bench")]
pub fn run(args: &Args) -> anyhow::Result<Vec<super::stats::Row>> {
    let built = crate::build::executables(&["--release", "--package", "larder"])?;
    let larder = built.named("larder")?;
    let scratch = tempfile::Builder::new().prefix("larder-bench-").tempdir_in(&args.scratch)?;
    let mut rows = Vec::new();
    for part in if args.part.is_empty() { &ALL[..] } else { &args.part } {
        eprintln!("bench: {part:?}");
        rows.extend(match part {
            Part::Decision => decision::run(scratch.path(), args.rounds)?,
            Part::Filling => filling::run(scratch.path())?,
            Part::Trees => trees::run(larder, scratch.path(), args.rounds)?,
            Part::Many => many::run(larder, scratch.path(), args.objects)?,
        });
    }
    Ok(rows)
}

/// Builds this program with the libraries, and becomes it.
#[cfg(not(feature = "cache-bench"))]
pub fn run(_args: &Args) -> anyhow::Result<Vec<super::stats::Row>> {
    use std::os::unix::process::CommandExt as _;
    let features = "--features=xtask/cache-bench";
    let built = crate::build::executables(&["--release", "--package", "xtask", features])?;
    let mut command = std::process::Command::new(built.named("xtask")?);
    Err(command.args(std::env::args_os().skip(1)).exec().into())
}
