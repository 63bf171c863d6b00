//! `larder daemon`.

use std::process::ExitCode;

use crate::cli::Global;

/// Arguments of `larder daemon`.
#[derive(clap::Args, Debug)]
pub struct Args {}

/// Runs `larder daemon`.
///
/// # Errors
///
/// Always, until it is written.
pub fn run(_args: Args, _global: &Global) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not written yet")
}
