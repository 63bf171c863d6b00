//! `larder worker`: the process that does the daemon's work; the keeper starts it.

use std::process::ExitCode;
use std::sync::Arc;

use larder_mount::keeper::STAND_IN_ENV;

use crate::cache_options::CacheOptions;
use crate::cli::Global;
use crate::daemon;
use crate::daemon::start::Options;
use crate::trace::Hub;

/// Arguments of `larder worker`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    limits: CacheOptions,
}

/// Runs the worker until it is told to stop; or who stands in for it, when the keeper says so.
///
/// # Errors
///
/// What kept it from starting.
pub fn run(args: Args, global: &Global, trace: Arc<Hub>) -> anyhow::Result<ExitCode> {
    let options = Options { verbose: global.verbose, limits: args.limits };
    match std::env::var(STAND_IN_ENV) {
        Ok(reason) => daemon::stand_in::run(global.paths()?, reason),
        Err(_) => daemon::worker::run(global.paths()?, options, trace),
    }
}
