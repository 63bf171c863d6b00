//! `larder cache prune`: remove objects that nobody uses.

use std::process::ExitCode;
use std::time::Duration;

use clap::ArgGroup;

use super::access::Access;
use crate::api::cache_types::PruneRequest;
use crate::cache_options::{Percent, PercentError};
use crate::output;
use crate::output::bytes::human;
use crate::output::size::Size;

const EXAMPLES: &str = "\
Examples:
  larder cache prune --all                      everything that no mount uses and nobody pinned
  larder cache prune --older-than 7d            what was not used for a week
  larder cache prune --to 10GiB --dry-run       what would have to go for 10 GiB to be left
  larder cache prune --until-free 20%           until a fifth of the disk is free";

/// Arguments of `larder cache prune`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, group = ArgGroup::new("what").required(true).multiple(true))]
pub struct Args {
    /// Remove everything that is neither in use nor pinned
    #[arg(long, group = "what", conflicts_with_all = ["older_than", "to", "until_free"])]
    all: bool,
    /// Only what was not used for so long, such as 12h, 7d, 4weeks
    #[arg(long, group = "what", value_name = "TIME", value_parser = humantime::parse_duration)]
    older_than: Option<Duration>,
    /// Only as much as it takes for the cache to come down to SIZE, the least recently used first
    #[arg(long, group = "what", value_name = "SIZE")]
    to: Option<Size>,
    /// Only as much as it takes for PERCENT of the disk to be free, the least recently used first
    #[arg(long, group = "what", value_name = "PERCENT", value_parser = percent)]
    until_free: Option<Percent>,
    /// Only objects of this volume
    #[arg(long)]
    volume: Option<String>,
    /// Tell what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
}

fn percent(text: &str) -> Result<Percent, PercentError> {
    text.strip_suffix('%').unwrap_or(text).parse()
}

/// Runs `larder cache prune`.
///
/// # Errors
///
/// When an object cannot be removed.
pub async fn run(args: Args, access: &Access, json: bool) -> anyhow::Result<ExitCode> {
    let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let request = PruneRequest {
        volume: args.volume,
        unused_for_ms: args.older_than.map(milliseconds),
        to_bytes: args.to.map(|Size(bytes)| bytes),
        until_free_percent: args.until_free.map(|Percent(percent)| percent),
        dry_run: args.dry_run,
    };
    let pruned = access.prune(&request).await?;
    if json {
        output::json(&pruned)?;
    } else {
        let what = if pruned.dry_run { "would be removed" } else { "removed" };
        output::line(format!("{} objects {what}, {}", pruned.objects, human(pruned.freed_bytes)))?;
        output::line(super::du::total(&access.disk_use().await?))?;
    }
    Ok(ExitCode::SUCCESS)
}
