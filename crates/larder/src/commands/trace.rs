//! `larder trace`: show trace events as they happen.

use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::{Map, Value};

use crate::api::client::Client;
use crate::api::lines::Lines;
use crate::api::types::TraceRequest;
use crate::cli::Global;
use crate::commands::mount::image_name;
use crate::output;
use crate::output::table::Rows;
use crate::runtime;
use crate::trace::{events, line};

const EXAMPLES: &str = "\
Examples:
  larder trace                                           everything, until Ctrl-C
  larder trace --image /mnt/app                          what happens to one image's blobs
  larder trace --event 'cachefiles_ondemand_*' --json    for programs, an object a line
  larder trace --event cachefiles_prep_read --pid 4711   what one process reads, and where it comes from
  larder trace --list                                    which events there are, and what they tell";

/// Arguments of `larder trace`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Only events of this image's blobs: its reference, or where it is mounted or will be; trees are found by --cookie
    #[arg(long, value_name = "REF|PATH")]
    image: Vec<String>,
    /// Only events of the cookie with this key, or whose keys begin with it
    #[arg(long, value_name = "KEY")]
    cookie: Vec<String>,
    /// Only events of this process's reads, as far as the front end tells whose they are
    #[arg(long)]
    pid: Vec<u32>,
    /// Only events of this name; a * at its end stands for anything
    #[arg(long, value_name = "NAME")]
    event: Vec<String>,
    /// End after so many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// List the events instead, with what they tell
    #[arg(long, conflicts_with_all = ["image", "cookie", "pid", "event", "count"])]
    list: bool,
}

/// Runs `larder trace`.
///
/// # Errors
///
/// When no daemon runs, or no event has a name that was given.
pub fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    if args.list {
        list(global.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let client = Client::new(&global.paths()?);
    let request = request(&args)?;
    runtime::for_command()?.block_on(async {
        let lines = client.trace(&request).await?;
        output::note("tracing; Ctrl-C ends it");
        tokio::select! {
            result = print(lines, args.count, global.json) => result,
            // Whoever ends it has seen enough: that is no failure.
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

fn request(args: &Args) -> anyhow::Result<TraceRequest> {
    Ok(TraceRequest {
        events: args.event.clone(),
        cookies: args.cookie.clone(),
        pids: args.pid.clone(),
        images: args.image.iter().map(|name| image_name(name)).collect::<Result<_, _>>()?,
    })
}

async fn print(mut lines: Lines, count: Option<u64>, json: bool) -> anyhow::Result<()> {
    let mut printed = 0;
    while count.is_none_or(|count| printed < count) {
        let Ok(Some(text)) = lines.next().await else {
            output::note("the daemon's worker has ended; a new one is traced with `larder trace` again");
            return Ok(());
        };
        let record: Map<String, Value> =
            serde_json::from_slice(&text).context("the daemon's answer cannot be understood")?;
        let lost = (record.get("event").and_then(Value::as_str) == Some("lost"))
            .then(|| record.get("records").and_then(Value::as_u64).unwrap_or_default());
        match lost {
            _ if json => output::line(String::from_utf8_lossy(&text))?,
            Some(lost) => output::line(format!("# {lost} events lost: this reader was too slow"))?,
            None => output::line(line::line(&record))?,
        }
        printed += u64::from(lost.is_none());
    }
    Ok(())
}

fn list(json: bool) -> anyhow::Result<()> {
    if json {
        let all =
            events::EVENTS.iter().map(|event| serde_json::json!({ "event": event.name, "says": event.says }));
        return output::json(&all.collect::<Vec<_>>());
    }
    let mut rows = Rows::new(&["EVENT", "WHAT IT TELLS"]);
    for event in events::EVENTS {
        rows.push([event.name, event.says]);
    }
    rows.print()
}
