//! [`run`]: the demo from beginning to end.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use larder_image::LoadedImage;

use super::full::{self, Full};
use super::lazy::{self, Lazy};
use super::scratch::Scratch;
use super::tree::{Amount, Cut, Program, Source};
use super::{Figures, check, image, place};
use crate::api::types::Records;
use crate::output;
use crate::output::size::Size;
use crate::serve::{Bandwidth, Layout, Link, Server};
use crate::signals::{clear_when_ended, stay_if_interrupted};

/// What the command line asks for.
#[derive(Debug)]
pub struct Options {
    /// The tree; this host's `/usr` without one.
    pub source: Option<PathBuf>,
    /// Decoded bytes of the image at most, but for what the program needs.
    pub max_size: Size,
    /// The link's round trip.
    pub latency: Duration,
    /// The link's bandwidth.
    pub bandwidth: Bandwidth,
    /// The front end; the best that works without one.
    pub frontend: Option<String>,
    /// The program; one of the tree without one.
    pub command: Vec<OsString>,
    /// Leave files where they are.
    pub keep: bool,
    /// How much the daemon says in its log.
    pub verbose: u8,
}

/// Measures both ways. Leaves nothing behind, whatever happens.
///
/// # Errors
///
/// Whatever fails first.
pub fn run(options: &Options) -> anyhow::Result<(Figures, Records)> {
    let source = Source::choose(options.source.as_deref())?;
    let program = Program::choose(&source, &options.command)?;
    output::note(format!("looking through {}", source.directory.display()));
    let cut = Cut::decide(&source, program, options.max_size.0);
    // The layout, the cache, the pulled blobs and the unpacked tree; all but the last are compressed or sparse.
    let directory = place::choose(cut.taken.bytes.saturating_mul(5) / 2)?;
    let scratch = Scratch::new(directory, options.keep);
    let interrupted = scratch.clone();
    clear_when_ended(move || {
        output::note("interrupted: cleaning up");
        if let Err(error) = interrupted.clear() {
            output::note(format!("warning: {error:#}"));
        }
    })?;
    let result = measure(options, &source, &cut, &scratch);
    stay_if_interrupted();
    let cleared = scratch.clear();
    let result = result?;
    cleared.context("the demo could not clean up after itself")?;
    Ok(result)
}

fn measure(
    options: &Options,
    source: &Source,
    cut: &Cut,
    scratch: &Scratch,
) -> anyhow::Result<(Figures, Records)> {
    let layout = scratch.path("layout");
    output::note(format!("building an image of {} files, {}", cut.taken.files, Size(cut.taken.bytes)));
    let image = image::build(source, cut, &layout)?;
    let link = Link::new(options.latency, options.bandwidth);
    let server = Server::start(Layout::open(&layout)?, link, SocketAddr::from(([127, 0, 0, 1], 0)))?;

    output::note(format!("on demand, over {} ms and {}", milliseconds(options.latency), options.bandwidth));
    let lazy = lazy::run(scratch, &server, cut.program(), options.frontend.as_deref(), options.verbose)?;
    output::note("comparing what came with its source");
    let compared = check::compare(source, &image, &image::metadata(&image)?, &lazy.records, lazy.target());
    scratch.stop_daemon()?;

    output::note("everything first, over the same link");
    let full = full::run(scratch, &server, &image, cut.program())?;

    let mut figures = figures(options, &image, cut, &lazy, &full);
    match compared {
        Ok(compared) => figures.compared = compared,
        Err(error) => output::note(format!("warning: {error:#}")),
    }
    let same_output = lazy.output == full.output;
    if !same_output {
        output::note("warning: the program's output was not the same both ways");
    }
    figures.verified = figures.compared.files > 0 && same_output && lazy.mount.last_error.is_none();
    Ok((figures, lazy.records))
}

fn figures(options: &Options, image: &LoadedImage, cut: &Cut, lazy: &Lazy, full: &Full) -> Figures {
    let program = cut.program();
    Figures {
        frontend: lazy.mount.frontend.clone(),
        verified: false,
        program: program.name.clone(),
        command: program.argv.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default(),
        image_bytes: image.image_bytes,
        tree: cut.taken,
        left_out: cut.left_out,
        latency_ms: milliseconds(options.latency),
        bandwidth: options.bandwidth.to_string(),
        lazy_seconds: lazy.first_output.as_secs_f64(),
        lazy_exit_seconds: lazy.end.as_secs_f64(),
        lazy_mount_seconds: lazy.mounted.as_secs_f64(),
        fetched_bytes: lazy.traffic.bytes,
        lazy_requests: lazy.traffic.requests,
        full_seconds: full.first_output.as_secs_f64(),
        full_exit_seconds: full.end.as_secs_f64(),
        full_fetch_seconds: full.fetched.as_secs_f64(),
        full_unpack_seconds: full.unpacked.as_secs_f64(),
        full_bytes: full.traffic.bytes,
        full_requests: full.traffic.requests,
        compared: Amount::default(),
        worker_resident_bytes: lazy.status.worker.resident_bytes,
        keeper_resident_bytes: lazy.status.keeper.as_ref().map_or(0, |keeper| keeper.resident_bytes),
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
