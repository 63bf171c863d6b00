//! `larder cache pin` and `unpin`: what is never culled.

use std::process::ExitCode;

use super::access::Access;
use crate::api::cache_types::PinRequest;
use crate::commands::mount::image_name;
use crate::output;
use crate::store::VOLUME;

const EXAMPLES: &str = "\
Examples:
  larder cache pin registry.example/app:1       every blob of an image
  larder cache pin sha256-3f2a…                 one object
  larder cache unpin registry.example/app:1     let it be culled again";

/// Arguments of `larder cache pin` and `unpin`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Images by reference or manifest digest, or keys of objects
    #[arg(required = true, value_name = "REF|KEY")]
    name: Vec<String>,
    /// The volume of objects that are named by their keys; those of trees are in `trees`
    #[arg(long, default_value = VOLUME)]
    volume: String,
}

/// Runs `larder cache pin` or `unpin`.
///
/// # Errors
///
/// When the cache has nothing of a name; what was named before it is done.
pub async fn run(args: Args, pinned: bool, access: &Access, json: bool) -> anyhow::Result<ExitCode> {
    let names = args.name.iter().map(|name| image_name(name)).collect::<Result<_, _>>()?;
    let done = access.pin(&PinRequest { names, volume: args.volume, pinned }).await?;
    if json {
        output::json(&done)?;
    } else {
        let what = if pinned { "pinned" } else { "no longer pinned" };
        output::line(format!("{} objects are {what}", done.cookies.len()))?;
    }
    Ok(ExitCode::SUCCESS)
}
