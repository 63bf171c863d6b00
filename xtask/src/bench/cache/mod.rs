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
mod many;

use super::Args;

/// Measures and prints rows.
#[cfg(feature = "cache-bench")]
pub fn run(args: &Args) -> anyhow::Result<Vec<super::stats::Row>> {
    let scratch = tempfile::Builder::new().prefix("larder-bench-").tempdir_in(&args.scratch)?;
    let mut rows = decision::run(scratch.path(), args.rounds)?;
    rows.extend(many::run(scratch.path(), args.objects)?);
    rows.extend(filling::run(scratch.path())?);
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
