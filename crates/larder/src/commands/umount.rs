//! `larder umount`: unmount an image or a tree.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;

use crate::api::client::Client;
use crate::api::types::UmountRequest;
use crate::cli::Global;
use crate::output;
use crate::runtime;

const EXAMPLES: &str = "\
Examples:
  larder umount /mnt/app            unmount; refused while a process uses it
  larder umount --lazy /mnt/app     detach now; who uses it can go on
  larder umount --all               unmount everything; the daemon stays";

/// Arguments of `larder umount`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Where the image or tree is mounted
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    target: Vec<PathBuf>,
    /// Detach the mount now, clean up when the last user is gone
    #[arg(short, long)]
    lazy: bool,
    /// Unmount every image and tree
    #[arg(short, long)]
    all: bool,
}

/// Runs `larder umount`.
///
/// # Errors
///
/// When no daemon runs, or a target is not mounted or in use; the others are unmounted before.
pub fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    let client = Client::new(&global.paths()?);
    let done = runtime::for_command()?.block_on(unmount(&client, args))?;
    if global.json {
        output::json(
            &serde_json::json!({ "unmounted": done.iter().map(|path| path.to_string_lossy()).collect::<Vec<_>>() }),
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn unmount(client: &Client, args: Args) -> anyhow::Result<Vec<PathBuf>> {
    let targets = if args.all {
        client.status().await?.mounts.into_iter().map(|mount| mount.path).collect()
    } else {
        args.target
    };
    let mut done = Vec::new();
    let mut failed = None;
    for target in targets {
        let path = std::path::absolute(&target)
            .with_context(|| format!("{}: cannot be made absolute", target.display()))?;
        match client.umount(&UmountRequest { path: path.clone(), lazy: args.lazy }).await {
            Ok(()) => done.push(path),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    match failed {
        Some(error) => Err(error),
        None => Ok(done),
    }
}
