//! On demand: the daemon, the mount, the program, and what they cost.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::runtime::Runtime;

use super::image::TAG;
use super::program::{self, Ran};
use super::scratch::Scratch;
use super::tree::Program;
use crate::api::client::Client;
use crate::api::types::{BlobLayout, Fill, Mount, MountRequest, Records, Status};
use crate::cache_options::CacheOptions;
use crate::cli::Global;
use crate::daemon::start;
use crate::output;
use crate::runtime;
use crate::serve::{Server, Traffic};

/// The link counts as quiet after so long without a byte.
const QUIET: Duration = Duration::from_millis(250);
/// And in any case after so long.
const QUIET_DEADLINE: Duration = Duration::from_secs(10);

/// What running on demand gave. The image is still mounted.
pub struct Lazy {
    /// From the wish to start to the answer of the mount request.
    pub mounted: Duration,
    /// To the first byte of output.
    pub first_output: Duration,
    /// To the program's end.
    pub end: Duration,
    /// What the program said.
    pub output: Vec<u8>,
    /// What crossed the link.
    pub traffic: Traffic,
    /// The mount, as the daemon saw it then.
    pub mount: Mount,
    /// The daemon, as it saw itself then.
    pub status: Status,
    /// What was fetched when, and who waited.
    pub records: Records,
}

/// Starts a daemon of its own, mounts the image that `server` has, runs the program in it.
///
/// # Errors
///
/// Whatever fails first.
pub fn run(
    scratch: &Scratch,
    server: &Server,
    program: &Program,
    frontend: Option<&str>,
    verbose: u8,
) -> anyhow::Result<Lazy> {
    let target = scratch.make_dir("mnt")?;
    let global = Global { root: Some(scratch.path("root")), json: false, verbose };
    let paths = global.paths()?;
    let runtime = runtime::for_command()?;
    let request = MountRequest {
        image: format!("{}/demo:{TAG}", server.address()),
        target: target.clone(),
        frontend: frontend.map(str::to_owned),
        insecure: false,
        tree: None,
    };
    let before = server.traffic();
    let begun = Instant::now();
    let start = || runtime.block_on(start::ensure(&paths, &global, &CacheOptions::default()));
    let (client, _) = scratch.start_daemon(&paths, &target, start)?;
    let mount = runtime.block_on(client.mount(&request))?;
    let mounted = begun.elapsed();
    output::note(format!("running {} through {}", program.name, mount.frontend));
    let ran = program::run(&target, &program.argv, scratch);
    let Ran { first_output, end, output } = ran.map_err(|error| explain(error, &runtime, &client))?;
    wait_until_quiet(server);
    let traffic = server.traffic() - before;
    let (status, mut records) =
        runtime.block_on(async { anyhow::Ok((client.status().await?, client.records(&mount.id).await?)) })?;
    scratch.daemon_pids(status.keeper.iter().map(|keeper| keeper.pid).chain([status.worker.pid]));
    let mount = status.mounts.iter().find(|found| found.id == mount.id).cloned();
    let mount = mount.context("the daemon has lost the mount")?;
    add_metadata(&mut records, &mount, &status);
    let since = |at: Instant| at.saturating_duration_since(begun);
    Ok(Lazy {
        mounted,
        first_output: since(first_output),
        end: since(end),
        output,
        traffic,
        mount,
        status,
        records,
    })
}

/// When a program fails because a read did, the daemon knows more.
fn explain(error: anyhow::Error, runtime: &Runtime, client: &Client) -> anyhow::Error {
    let told = runtime.block_on(client.status()).ok();
    match told.and_then(|status| status.mounts.into_iter().find_map(|mount| mount.last_error)) {
        Some(cause) => anyhow::anyhow!("the last fetch that failed: {cause}").context(format!("{error:#}")),
        None => error,
    }
}

/// Reading ahead may go on after the program's end: it is part of the cost.
fn wait_until_quiet(server: &Server) {
    let begun = Instant::now();
    let mut seen = server.traffic();
    loop {
        std::thread::sleep(QUIET);
        let now = server.traffic();
        if now == seen || begun.elapsed() > QUIET_DEADLINE {
            return;
        }
        seen = now;
    }
}

/// The metadata comes whole before the engine records anything: for the report it is a blob like others.
fn add_metadata(records: &mut Records, mount: &Mount, status: &Status) {
    let name = mount.blobs.first().filter(|name| records.blobs.iter().all(|blob| blob.name != **name));
    let Some(blob) = name.and_then(|name| status.blobs.iter().find(|blob| blob.name == *name)) else {
        return;
    };
    let first = records.faults.iter().map(|fault| fault.at_ms - fault.waited_ms);
    let first =
        first.chain(records.fills.iter().map(|fill| fill.at_ms - fill.took_ms)).fold(f64::INFINITY, f64::min);
    for position in records
        .fills
        .iter_mut()
        .map(|fill| &mut fill.blob)
        .chain(records.faults.iter_mut().map(|fault| &mut fault.blob))
    {
        *position += 1;
    }
    records.blobs.insert(
        0,
        BlobLayout {
            name: blob.name.clone(),
            size_bytes: blob.size_bytes,
            stored_bytes: blob.stored_bytes,
            ..BlobLayout::default()
        },
    );
    records.fills.insert(
        0,
        Fill {
            at_ms: if first.is_finite() { first } else { 0.0 },
            blob: 0,
            start: 0,
            end: blob.size_bytes,
            stored_bytes: blob.stored_bytes,
            cause: "prefetch".to_owned(),
            took_ms: 0.0,
            ok: true,
        },
    );
}

impl Lazy {
    /// Where the image is mounted.
    pub fn target(&self) -> &PathBuf {
        &self.mount.path
    }
}
