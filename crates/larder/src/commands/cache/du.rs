//! `larder cache du`: what the cache takes.

use std::process::ExitCode;

use super::access::Access;
use crate::api::cache_types::{DiskUse, Sum};
use crate::output;
use crate::output::bytes::{human, mebibytes};
use crate::output::table::Rows;

const EXAMPLES: &str = "\
Examples:
  larder cache du                                     by volume and by image
  larder cache du --json | jq .stored_bytes           for programs";

/// Arguments of `larder cache du`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {}

/// Runs `larder cache du`.
///
/// # Errors
///
/// When the cache cannot be read.
pub async fn run(_args: &Args, access: &Access, json: bool) -> anyhow::Result<ExitCode> {
    let used = access.disk_use().await?;
    if json {
        output::json(&used)?;
        return Ok(ExitCode::SUCCESS);
    }
    table("VOLUME", used.volumes.iter().map(|used| (&*used.volume, used.sum))).print()?;
    if !used.images.is_empty() {
        output::line("")?;
        table("IMAGE", used.images.iter().map(|used| (&*used.image, used.sum))).print()?;
    }
    output::line(format!("\n{}", total(&used)))?;
    Ok(ExitCode::SUCCESS)
}

fn table<'a>(name: &str, sums: impl Iterator<Item = (&'a str, Sum)>) -> Rows {
    let mut rows = Rows::new(&[name, "OBJECTS>", "COMPLETE>", "SIZE MiB>", "STORED MiB>", "PINNED MiB>"]);
    for (name, sum) in sums {
        rows.push([
            name.to_owned(),
            sum.objects.to_string(),
            sum.complete.to_string(),
            mebibytes(sum.size_bytes),
            mebibytes(sum.stored_bytes),
            mebibytes(sum.pinned_bytes),
        ]);
    }
    rows
}

/// `3 objects take 1.2 GiB; the quota is 10 GiB`.
pub fn total(used: &DiskUse) -> String {
    let quota = match used.limits.quota_bytes {
        Some(quota) => format!("the quota is {}", human(quota)),
        None => "there is no quota".to_owned(),
    };
    let rebuilding =
        if used.rebuilding { "; the index is being rebuilt: some are still missing" } else { "" };
    format!("{} objects take {}; {quota}{rebuilding}", used.objects, human(used.stored_bytes))
}
