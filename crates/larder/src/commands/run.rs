//! `larder run`.

use std::process::ExitCode;

use crate::cli::Global;

/// Arguments of `larder run`.
#[derive(clap::Args, Debug)]
pub struct Args {}

/// Runs `larder run`.
///
/// # Errors
///
/// Always, until it is written.
pub fn run(_args: Args, _global: &Global) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not written yet")
}
