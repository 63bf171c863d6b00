//! `larder daemon --replace`: the caller's own program takes over under the running keeper.
//!
//! Whoever reads waits from the moment the old worker stops taking questions until the new one has taken the mounts up.
//! The keeper goes back to the old program when the new one ends before it gets that far.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Daemon, formats, start};
use crate::api::client::{Client, is_lost};
use crate::api::types::{ReplaceRequest, Replacing, Status};
use crate::errors::{Kind, told};
use crate::paths::Paths;

/// How long the new worker may take until it answers.
const DEADLINE: Duration = Duration::from_secs(60);

/// How often a call is made when workers end under it.
const TRIES_MAX: u32 = 5;

/// Between two looks at whether it does.
const PAUSE: Duration = Duration::from_millis(10);

/// Has this program's worker take over from the one that runs; returns the daemon's status before and after.
///
/// # Errors
///
/// When no daemon runs; when this release does not understand what it has, before its worker is touched; when the new
/// worker does not serve: the old program serves again then.
pub async fn replace(paths: &Paths) -> anyhow::Result<(Status, Status)> {
    let client = Client::new(paths);
    if !client.is_running().await {
        // Says that there is none.
        client.status().await?;
    }
    let _lock = start::lock(&paths.start_lock())?;
    for _ in 1..TRIES_MAX {
        match try_replace(paths, &client).await {
            // The worker was just ending, and took the call with it; the next one answers.
            Err(error) if is_lost(&error) => tokio::time::sleep(PAUSE).await,
            result => return result,
        }
    }
    try_replace(paths, &client).await
}

async fn try_replace(paths: &Paths, client: &Client) -> anyhow::Result<(Status, Status)> {
    let before = client.status().await?;
    let Some(found) = before.formats else {
        return Err(told(
            Kind::Conflict,
            format!("the running daemon, version {}, does not know `--replace` yet", before.version),
            "end it with `larder daemon --stop`, which unmounts, and start this one",
        ));
    };
    found.check()?;
    formats::check_state(paths, true)?;
    let program = PathBuf::from(start::program()?);
    let replacing = client.replace(&ReplaceRequest { program: program.clone() }).await?;
    let after = wait_for_another(client, replacing.worker).await?;
    if let Some(gave_up) = after.gave_up {
        return Err(told(
            Kind::Failed,
            format!("{}: its worker does not serve: {}", program.display(), gave_up.reason),
            gave_up.hint,
        ));
    }
    if after.program != program {
        return Err(told(
            Kind::Failed,
            format!(
                "{}: its worker does not serve; {} serves again",
                program.display(),
                after.program.display()
            ),
            format!("the daemon's log, {} unless a service manager has it, tells why", paths.log().display()),
        ));
    }
    Ok((before, after))
}

/// The status of the first worker that is another one.
async fn wait_for_another(client: &Client, old: u32) -> anyhow::Result<Status> {
    let begun = Instant::now();
    loop {
        match client.status().await {
            Ok(status) if status.worker.pid != old => return Ok(status),
            // The old one is about to go, or has gone and the next is not there yet.
            _ if begun.elapsed() < DEADLINE => tokio::time::sleep(PAUSE).await,
            Err(error) => return Err(error),
            Ok(_) => {
                return Err(told(
                    Kind::Failed,
                    format!("worker {old} did not make way within {DEADLINE:?}"),
                    "try again, or kill it: readers wait for the next one",
                ));
            }
        }
    }
}

impl Daemon {
    /// Has the keeper start the next worker from `program`, and begins to make way for it.
    ///
    /// # Errors
    ///
    /// When the daemon is stopping, or no keeper is there that could start another program.
    pub fn replace(&self, request: &ReplaceRequest) -> anyhow::Result<Replacing> {
        if self.gate.is_closed() {
            return Err(told(Kind::Conflict, "the daemon is stopping", "start it again when it has ended"));
        }
        let argv = start::worker_argv(request.program.clone().into(), &self.paths, &self.options);
        let asked = match &self.keeper {
            Some(keeper) => keeper.set_program(&argv),
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        asked.map_err(cannot_start)?;
        tracing::info!(program = %request.program.display(), "making way for another program");
        self.make_way.notify_one();
        Ok(Replacing { worker: std::process::id() })
    }
}

/// Why the keeper cannot start another program, in words.
pub(super) fn cannot_start(error: io::Error) -> anyhow::Error {
    let (kind, message, hint) = match error.kind() {
        io::ErrorKind::NotConnected => (
            Kind::Conflict,
            "no keeper is there: the mounts would not survive the worker's end",
            "the daemon's log tells why; the worker tries to start one every few seconds",
        ),
        io::ErrorKind::Unsupported => (
            Kind::Conflict,
            "the keeper is of a release that cannot start another program",
            "put the new program in the place of the old one and send the worker SIGHUP, or end the daemon with \
             `larder daemon --stop`, which unmounts",
        ),
        _ => (Kind::Failed, "the keeper cannot be told of the program", ""),
    };
    anyhow::Error::new(error).context(crate::errors::tell(kind, message, hint))
}
