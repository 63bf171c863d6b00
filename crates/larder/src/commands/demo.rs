//! `larder demo`: the whole way on this machine, beside what a container engine does today.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;

use crate::cli::{FrontEndName, Global};
use crate::demo::{self, Figures};
use crate::errors::{Kind, told};
use crate::output;
use crate::output::size::Size;
use crate::report;
use crate::serve::Bandwidth;

const EXAMPLES: &str = "\
Examples:
  larder demo                                              with python3, perl or git of this machine's /usr
  larder demo --report demo.html                           and a page that shows what came when
  larder demo --latency 50ms --bandwidth 100mbit           over a slower link
  larder demo --max-size 300MiB --frontend fuse -- bash -c 'echo hello'

What is compared: a program that starts as soon as the bytes it reads are here, and one that starts when the whole
image was fetched, checked and unpacked. Both begin with nothing of the image on this machine, and go over one link.";

/// Arguments of `larder demo`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Build the image from DIR instead of this machine's /usr
    #[arg(long, value_name = "DIR")]
    source: Option<PathBuf>,
    /// Leave the largest files out of an image that would be larger
    #[arg(long, value_name = "SIZE", default_value = "2GiB")]
    max_size: Size,
    /// The link's round trip, for each connection and each request
    #[arg(long, value_name = "TIME", default_value = "20ms", value_parser = humantime::parse_duration)]
    latency: Duration,
    /// The link's bandwidth, as in 200mbit, 25MB/s, unlimited
    #[arg(long, value_name = "RATE", default_value = "200mbit")]
    bandwidth: Bandwidth,
    /// Mount through this front end instead of the best that works
    #[arg(long, value_enum)]
    frontend: Option<FrontEndName>,
    /// Write a page that shows what was fetched when, and who waited
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Leave image, cache and unpacked tree where they are
    #[arg(long)]
    keep: bool,
    /// Run this program of the tree instead
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Runs `larder demo`.
///
/// # Errors
///
/// When a step fails, or what came is not what was sent.
pub fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    let page = args.report.as_deref().map(page).transpose()?;
    let options = demo::Options {
        source: args.source,
        max_size: args.max_size,
        latency: args.latency,
        bandwidth: args.bandwidth,
        frontend: args.frontend.map(|name| name.as_str().to_owned()),
        command: args.command,
        keep: args.keep,
        verbose: global.verbose,
    };
    let (figures, records) = demo::run(&options)?;
    if let (Some(mut page), Some(path)) = (page, &args.report) {
        let place = || format!("{}: cannot be written", path.display());
        page.write_all(report::page(&figures, &records).as_bytes()).with_context(place)?;
        page.persist(path).with_context(place)?;
        output::note(format!("the report is in {}", path.display()));
    }
    if global.json {
        output::json(&figures)?;
    } else {
        output::line(format!("\n{}", figures.text()))?;
    }
    judge(&figures)
}

/// Opens the page beside its final name, so that a place that cannot be written is told before the work.
fn page(path: &Path) -> anyhow::Result<tempfile::NamedTempFile> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    // Like any other file that a user makes: the umask decides.
    builder.prefix(".larder-report-").permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(parent).with_context(|| format!("{}: cannot be written", path.display()))
}

fn judge(figures: &Figures) -> anyhow::Result<ExitCode> {
    if figures.verified {
        return Ok(ExitCode::SUCCESS);
    }
    Err(told(
        Kind::Failed,
        "what came could not be verified",
        "the warnings above say what differed; try again on a tree that nobody changes",
    ))
}
