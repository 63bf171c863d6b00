//! `larder cache`: look at the cache, decide what stays, check what is there.

mod access;
mod du;
mod ls;
mod pin;
mod prune;
mod verify;

use std::process::ExitCode;

use clap::Subcommand;

use crate::cli::Global;
use crate::runtime;
use access::Access;

const EXAMPLES: &str = "\
Examples:
  larder cache du                              what the cache takes, by volume and by image
  larder cache prune --older-than 7d           remove what was not used for a week
  larder cache pin registry.example/app:1      keep an image from being culled
  larder cache verify                          read everything again, and check it";

/// Arguments of `larder cache`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the objects
    Ls(ls::Args),
    /// Add up what the objects take, by volume and by image
    Du(du::Args),
    /// Remove objects that nobody uses
    Prune(prune::Args),
    /// Keep images or single objects from being culled
    Pin(pin::Args),
    /// Let images or single objects be culled again
    Unpin(pin::Args),
    /// Read what is present again, check it against its digests, put damage right
    Verify(verify::Args),
}

/// Runs `larder cache`: through the daemon when one runs, else on the cache itself.
///
/// # Errors
///
/// When there is no cache, or it cannot be read or changed.
pub fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    let runtime = runtime::for_worker()?;
    runtime.block_on(async {
        let access = Access::open(&global.paths()?).await?;
        match args.command {
            Command::Ls(args) => ls::run(args, &access, global.json).await,
            Command::Du(args) => du::run(&args, &access, global.json).await,
            Command::Prune(args) => prune::run(args, &access, global.json).await,
            Command::Pin(args) => pin::run(args, true, &access, global.json).await,
            Command::Unpin(args) => pin::run(args, false, &access, global.json).await,
            Command::Verify(args) => verify::run(args, &access, global.json).await,
        }
    })
}
