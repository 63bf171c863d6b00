//! `larder worker`: the process that does the daemon's work; the keeper starts it.

use std::process::ExitCode;
use std::sync::Arc;

use crate::cli::Global;
use crate::daemon;
use crate::trace::Hub;

/// Arguments of `larder worker`.
#[derive(clap::Args, Debug)]
pub struct Args {}

/// Runs the worker until it is told to stop.
///
/// # Errors
///
/// What kept it from starting.
pub fn run(_args: Args, global: &Global, trace: Arc<Hub>) -> anyhow::Result<ExitCode> {
    daemon::worker::run(global.paths()?, global.verbose, trace)
}
