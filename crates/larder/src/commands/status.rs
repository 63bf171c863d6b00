//! `larder status`: what is mounted, and what was fetched.

use std::process::ExitCode;

use crate::api::client::Client;
use crate::api::types::{Mount, MountKind, MountState, Status};
use crate::cli::Global;
use crate::output;
use crate::output::bytes::mebibytes;
use crate::output::table::Rows;
use crate::runtime;

const EXAMPLES: &str = "\
Examples:
  larder status                                 a table
  larder status --blobs                         and how much of each blob is here
  larder status --json | jq .mounts[].path      for programs";

/// Arguments of `larder status`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// List the blobs too
    #[arg(long)]
    blobs: bool,
}

/// Runs `larder status`.
///
/// # Errors
///
/// When no daemon runs.
pub fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    let client = Client::new(&global.paths()?);
    let status = runtime::for_command()?.block_on(client.status())?;
    if global.json {
        output::json(&status)?;
    } else {
        print(&status, args.blobs)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print(status: &Status, blobs: bool) -> anyhow::Result<()> {
    let keeper = status.keeper.as_ref().map_or_else(|| "none".to_owned(), |keeper| keeper.pid.to_string());
    output::line(format!("larder {}: keeper {keeper}, worker {}", status.version, status.worker.pid))?;
    if status.mounts.is_empty() {
        return output::line("nothing is mounted");
    }
    output::line("")?;
    mounts(&status.mounts).print()?;
    if blobs {
        output::line("")?;
        self::blobs(status).print()?;
    }
    for mount in &status.mounts {
        if let Some(error) = &mount.last_error {
            output::line(format!("\n{}: last error: {error}", mount.path.display()))?;
        }
    }
    Ok(())
}

fn mounts(mounts: &[Mount]) -> Rows {
    let mut rows =
        Rows::new(&["PATH", "IMAGE", "FRONT END", "STATE", "IMAGE MiB>", "FETCHED MiB>", "REQUESTS>"]);
    for mount in mounts {
        rows.push([
            mount.path.display().to_string(),
            mount.image.clone(),
            mount.frontend.clone(),
            state(mount.state).to_owned(),
            size(mount),
            mebibytes(mount.fetched_bytes),
            mount.requests.to_string(),
        ]);
    }
    rows
}

fn blobs(status: &Status) -> Rows {
    let mut rows = Rows::new(&["BLOB", "MiB>", "PRESENT MiB>", "FETCHED MiB>", "REQUESTS>", "COMPLETE"]);
    for blob in &status.blobs {
        rows.push([
            blob.name.clone(),
            mebibytes(blob.size_bytes),
            mebibytes(blob.present_bytes),
            mebibytes(blob.fetched_bytes),
            blob.requests.to_string(),
            if blob.complete { "yes" } else { "no" }.to_owned(),
        ]);
    }
    rows
}

/// The size of an image; that of a tree nobody knows.
fn size(mount: &Mount) -> String {
    match mount.kind {
        MountKind::Image => mebibytes(mount.image_bytes),
        MountKind::Tree => "-".to_owned(),
    }
}

fn state(state: MountState) -> &'static str {
    match state {
        MountState::OnDemand => "on demand",
        MountState::Complete => "complete",
    }
}
