//! `larder serve`: an image layout as a registry.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::Global;
use crate::errors::{Kind, tell};
use crate::output;
use crate::output::bytes::human;
use crate::runtime;
use crate::serve::{Bandwidth, Layout, LayoutError, Link, Server};

const EXAMPLES: &str = "\
Examples:
  larder serve /srv/images
  larder serve /srv/images --listen 0.0.0.0:5000
  larder serve /srv/images --latency 20ms --bandwidth 200mbit    as if it were far away

Any repository name reads the one layout: 127.0.0.1:5000/app:TAG and 127.0.0.1:5000/x/y:TAG are the same image.
It speaks plain HTTP and asks nobody for a login: from other machines mount with --insecure.";

/// Arguments of `larder serve`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The OCI image layout to serve
    #[arg(value_name = "DIR")]
    layout: PathBuf,
    /// Where to listen, IP:PORT; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:5000", value_parser = address)]
    listen: SocketAddr,
    /// The round trip that each connection and each request waits for
    #[arg(long, value_name = "TIME", default_value = "0ms", value_parser = humantime::parse_duration)]
    latency: Duration,
    /// What all connections share, as in 200mbit, 25MB/s, unlimited
    #[arg(long, value_name = "RATE", default_value = "unlimited")]
    bandwidth: Bandwidth,
}

#[derive(Serialize)]
struct Started<'a> {
    address: SocketAddr,
    layout: &'a Path,
    tags: Vec<String>,
}

/// Runs `larder serve` until SIGINT or SIGTERM.
///
/// # Errors
///
/// When the directory is no layout, or the address cannot be listened on.
pub fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    let runtime = runtime::for_command()?;
    // Before anything is announced: who reads the address may stop us at once.
    let (mut interrupt, mut terminate) = runtime.block_on(async {
        anyhow::Ok((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?))
    })?;
    let (layout, tags) = open(&args.layout).map_err(|error| {
        let hint = error.hint().unwrap_or_default();
        anyhow::Error::new(error).context(tell(Kind::Failed, "the directory cannot be served", hint))
    })?;
    let server =
        Server::start(layout, Link::new(args.latency, args.bandwidth), args.listen).map_err(|error| {
            let hint = error.hint().unwrap_or_default();
            anyhow::Error::new(error).context(tell(Kind::Failed, "the registry did not start", hint))
        })?;
    let started = Started { address: server.address(), layout: &args.layout, tags };
    if global.json {
        output::json(&started)?;
    } else {
        output::line(announce(&started, &args))?;
    }
    runtime.block_on(async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    });
    let sent = server.traffic();
    if !global.json {
        output::note(format!(
            "stopped: sent {} in {} requests over {} connections",
            human(sent.bytes),
            sent.requests,
            sent.connections
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads IP:PORT.
fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "write IP:PORT, as in 127.0.0.1:5000".to_owned())
}

fn open(directory: &Path) -> Result<(Layout, Vec<String>), LayoutError> {
    let layout = Layout::open(directory)?;
    let tags = layout.tags()?;
    Ok((layout, tags))
}

fn announce(started: &Started<'_>, args: &Args) -> String {
    let mut text = format!("serving {} on http://{}", started.layout.display(), started.address);
    if !args.latency.is_zero() || args.bandwidth != Bandwidth::Unlimited {
        let latency = humantime::format_duration(args.latency);
        text.push_str(&format!(" (round trip {latency}, bandwidth {})", args.bandwidth));
    }
    for tag in &started.tags {
        text.push_str(&format!("\n  {}/image:{tag}", started.address));
    }
    text
}
