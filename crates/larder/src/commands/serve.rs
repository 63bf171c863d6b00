//! `larder serve`.

use std::process::ExitCode;

use crate::cli::Global;

/// Arguments of `larder serve`.
#[derive(clap::Args, Debug)]
pub struct Args {}

/// Runs `larder serve`.
///
/// # Errors
///
/// Always, until it is written.
pub fn run(_args: Args, _global: &Global) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not written yet")
}
