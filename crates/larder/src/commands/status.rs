//! `larder status`: what is mounted, and what was fetched.

use std::process::ExitCode;

use crate::api::cache_types::{CacheStats, SpaceState};
use crate::api::client::Client;
use crate::api::types::{GaveUp, Mount, MountKind, MountState, Status};
use crate::cli::Global;
use crate::output;
use crate::output::bytes::{human, mebibytes};
use crate::output::table::Rows;
use crate::runtime;

const EXAMPLES: &str = "\
Examples:
  larder status                                 a table
  larder status --blobs                         and how much of each blob is here
  larder status --cache                         how full the cache is, and its counters
  larder status --json | jq .mounts[].path      for programs";

/// Arguments of `larder status`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// List the blobs too
    #[arg(long)]
    blobs: bool,
    /// Show how full the cache is and what happened to it, as /proc/fs/fscache/stats does, instead
    #[arg(long, conflicts_with = "blobs")]
    cache: bool,
}

/// Runs `larder status`.
///
/// # Errors
///
/// When no daemon runs.
pub fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    let client = Client::new(&global.paths()?);
    if args.cache {
        let stats = runtime::for_command()?.block_on(client.cache_stats())?;
        if global.json {
            output::json(&stats)?
        } else {
            cache(&stats)?
        }
        return Ok(ExitCode::SUCCESS);
    }
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
    if let Some(gave_up) = &status.gave_up {
        print_gave_up(gave_up)?;
    }
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

fn print_gave_up(gave_up: &GaveUp) -> anyhow::Result<()> {
    output::line(format!("\ngave up: {}", gave_up.reason))?;
    if let Some(error) = &gave_up.last_error {
        output::line(error.to_string().trim_end())?;
    }
    output::line(format!("what to do: {}", gave_up.hint))
}

/// The space first, then the counters as `netfs_stats_show()` of fs/netfs/stats.c and `fscache_stats_show()` of
/// fs/netfs/fscache_stats.c (v6.12) print them, in their order.
fn cache(stats: &CacheStats) -> anyhow::Result<()> {
    let (limits, disk) = (&stats.limits, &stats.disk);
    let quota = limits.quota_bytes.map_or_else(|| "none".to_owned(), human);
    let rebuilding =
        if stats.rebuilding { " (the index is being rebuilt: some are still missing)" } else { "" };
    output::line(format!("Objects   : n={} take {}{rebuilding}", stats.objects, human(stats.stored_bytes)))?;
    output::line(format!("Quota     : {quota}, {} charged", human(stats.charged_bytes)))?;
    output::line(format!(
        "Blocks    : {} of {} free; run {} % cull {} % stop {} %",
        human(disk.free_bytes),
        human(disk.bytes),
        limits.brun,
        limits.bcull,
        limits.bstop
    ))?;
    output::line(format!(
        "Files     : {} of {} free; run {} % cull {} % stop {} %",
        disk.free_files, disk.files, limits.frun, limits.fcull, limits.fstop
    ))?;
    let state = match stats.state {
        SpaceState::Run => "run: there is enough",
        SpaceState::Low => "low: below the run limit; culling that has begun goes on",
        SpaceState::Cull => "cull: idle objects are culled",
        SpaceState::Stop => "stop: nothing new is cached",
    };
    output::line(format!("State     : {state}"))?;
    for group in stats.netfs.iter().chain(&stats.groups) {
        let counters = group.counters.iter().map(|counter| format!("{}={}", counter.name, counter.value));
        output::line(format!("{:<10}: {}", group.name, counters.collect::<Vec<_>>().join(" ")))?;
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
        MountState::Failing => "failing",
    }
}
