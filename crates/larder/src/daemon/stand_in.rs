//! [`StandIn`]: who serves when workers die one after the other, so that nobody waits for ever.
//!
//! It takes up the front ends that the keeper has something of and gives every reader EIO; cache, mounts and registries it
//! leaves alone, because whatever the workers die of may lie there. It says why in the status, and makes way for the worker
//! again: for `larder daemon --replace`, or when the keeper thinks that it is time.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use larder_mount::keeper::{self, Holder as _};
use larder_ondemand::{Engine, EngineConfig};
use tokio::net::UnixListener;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::complaints::Complaints;
use super::formats::Formats;
use super::front_ends::FrontEnds;
use super::record::MountRecord;
use super::signals::{self, Signals, TRY_AGAIN};
use super::waiting::failing;
use super::{listener, replace, stale, upkeep, view, worker};
use crate::api::server;
use crate::api::types::{GaveUp, ReplaceRequest, Replacing, Status};
use crate::errors::{Kind, Report, told};
use crate::paths::Paths;
use crate::runtime;

/// Between two looks at whether a detached mount is still read.
const PAUSE: Duration = Duration::from_millis(20);

/// Who serves in the place of a worker: what its few endpoints work on.
pub struct StandIn {
    paths: Paths,
    keeper: keeper::Client,
    front_ends: FrontEnds,
    /// The command line of a worker.
    worker_argv: Vec<OsString>,
    gave_up: GaveUp,
    /// Set once: the daemon ends when nobody reads from what was mounted.
    stopping: AtomicBool,
    /// Told when a worker is to take over.
    make_way: Notify,
    /// Told when everything is detached.
    stop: Notify,
}

/// Stands in until it is told to make way or to stop. `reason` is what the keeper says.
///
/// # Errors
///
/// What kept it from starting.
pub fn run(paths: Paths, reason: String) -> anyhow::Result<ExitCode> {
    crate::sys::limit_malloc_arenas();
    // The keeper has given this process the command line of a worker.
    let worker_argv: Vec<OsString> = std::env::args_os().collect();
    let keeper = worker::connect(worker_argv.clone(), true)?;
    let runtime = runtime::for_worker()?;
    let result = runtime.block_on(stand_in(paths, keeper, worker_argv, reason));
    worker::leave(runtime, &result);
    result
}

async fn stand_in(
    paths: Paths,
    keeper: keeper::Client,
    worker_argv: Vec<OsString>,
    reason: String,
) -> anyhow::Result<ExitCode> {
    let signals = Signals::new()?;
    let engine = Engine::new(tokio::runtime::Handle::current(), EngineConfig::default());
    let front_ends = FrontEnds::new(paths.cache(), Arc::new(keeper.clone()), engine);
    let gave_up = gave_up(&paths, reason);
    tracing::error!(reason = gave_up.reason, "every reader gets an error from now on");
    let stand_in = Arc::new(StandIn {
        paths,
        keeper,
        front_ends,
        worker_argv,
        gave_up,
        stopping: AtomicBool::new(false),
        make_way: Notify::new(),
        stop: Notify::new(),
    });
    spawn_blocking({
        let stand_in = Arc::clone(&stand_in);
        move || stand_in.refuse_readers()
    })
    .await?;
    let listener = listener::take_or_bind(&stand_in.paths.socket(), &stand_in.keeper)?;
    stand_in.keeper.ready();
    tokio::spawn(upkeep::show_signs_of_life(stand_in.keeper.clone()));
    let router = server::stand_in(Arc::clone(&stand_in));
    worker::answer_until(UnixListener::from_std(listener)?, router, stand_in.wait_for_end(signals)).await
}

/// What the status says of it.
fn gave_up(paths: &Paths, reason: String) -> GaveUp {
    let said = std::fs::read(paths.start_error()).ok();
    let last_error: Option<Report> = said.and_then(|text| serde_json::from_slice(&text).ok());
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let log = paths.log();
    GaveUp {
        reason,
        last_error,
        since_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
        hint: format!(
            "mend what the workers die of (the daemon's log, {} unless a service manager has it, says more), then \
             `larder daemon --replace`; it is also tried again by itself, every minute at least",
            log.display()
        ),
    }
}

impl StandIn {
    /// Takes up what the keeper has of front ends, and refuses everybody who asks. Blocks.
    fn refuse_readers(&self) {
        for kind in FrontEnds::inherited(&self.keeper.names()) {
            match self.front_ends.get(kind) {
                Ok(front_end) => {
                    front_end.give_up();
                    front_end.finish_resume();
                }
                Err(error) => tracing::error!(%kind, "its readers wait: {error:#}"),
            }
        }
    }

    /// The daemon, and the mounts that there are records of.
    pub fn status(&self) -> Status {
        let records = MountRecord::load_all(&self.paths.mounts()).unwrap_or_default();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            program: self.worker_argv.first().map(PathBuf::from).unwrap_or_default(),
            formats: Some(Formats::under(self.keeper.protocol())),
            keeper: self.keeper.keeper_pid().map(view::process),
            worker: view::process(std::process::id()),
            gave_up: Some(self.gave_up.clone()),
            trace_listeners: 0,
            mounts: records.into_iter().map(failing).collect(),
            blobs: Vec::new(),
        }
    }

    /// Has the keeper start a worker from `program`, and makes way for it.
    ///
    /// # Errors
    ///
    /// When the daemon is stopping, or no keeper is there that could start one.
    pub fn replace(&self, request: &ReplaceRequest) -> anyhow::Result<Replacing> {
        if self.stopping.load(Ordering::Acquire) {
            return Err(told(Kind::Conflict, "the daemon is stopping", "start it again when it has ended"));
        }
        let program = OsString::from(request.program.clone());
        let rest = self.worker_argv.iter().skip(1).cloned();
        let argv: Vec<OsString> = std::iter::once(program).chain(rest).collect();
        self.keeper.set_program(&argv).map_err(replace::cannot_start)?;
        tracing::info!(program = %request.program.display(), "making way for a worker");
        self.make_way.notify_one();
        Ok(Replacing { worker: std::process::id() })
    }

    /// Detaches everything and lets the daemon end when nobody reads from it any more. Blocks.
    ///
    /// # Errors
    ///
    /// Without `lazy`: this process does not know which mounts are in use. When something cannot be detached, or a record cannot
    /// be read: the rest is detached, and the call can be repeated.
    pub fn stop(&self, lazy: bool) -> anyhow::Result<()> {
        let (records, unreadable) = MountRecord::load_readable(&self.paths.mounts())?;
        let is_mounted = unreadable.is_some() || !records.is_empty();
        if !lazy && is_mounted {
            return Err(told(
                Kind::Conflict,
                format!("the daemon gave up, and can only detach what is mounted: {}", self.gave_up.reason),
                "detach it with `larder daemon --stop --lazy`, or bring it back: `larder status` says how",
            ));
        }
        self.stopping.store(true, Ordering::Release);
        let failed = records.iter().filter_map(|record| self.detach(record).err());
        // All of them are detached that can be: the less is mounted, the less is read.
        let failed = failed.fold(unreadable, |first, error| first.or(Some(error)));
        if let Some(error) = failed {
            self.stopping.store(false, Ordering::Release);
            return Err(error);
        }
        self.stop.notify_one();
        Ok(())
    }

    fn detach(&self, record: &MountRecord) -> anyhow::Result<()> {
        stale::detach(record, &self.paths.cache())?;
        MountRecord::remove(&self.paths.mounts(), &record.id)
    }

    /// What whoever wants anything else is told.
    pub fn refusal(&self) -> anyhow::Error {
        told(
            Kind::Conflict,
            format!("the daemon gave up: {}", self.gave_up.reason),
            "`larder status` says more",
        )
    }

    async fn wait_for_end(self: &Arc<Self>, mut signals: Signals) -> anyhow::Result<ExitCode> {
        let (mut try_again, complaints) = (false, Complaints::default());
        loop {
            tokio::select! {
                // A stop that has succeeded goes before whoever is to take over.
                biased;
                () = self.stop.notified() => return self.end().await,
                () = self.make_way.notified() => return Ok(self.hand_over()),
                _ = signals.replace.recv() => return Ok(self.hand_over()),
                _ = signals.terminate.recv() => {}
                _ = signals.interrupt.recv() => {}
                () = sleep(TRY_AGAIN), if try_again => {}
            }
            let stand_in = Arc::clone(self);
            let stopped = spawn_blocking(move || stand_in.stop(true)).await?;
            try_again = signals::is_to_be_tried_again(&complaints, stopped);
        }
    }

    fn hand_over(&self) -> ExitCode {
        for front_end in self.front_ends.made() {
            front_end.hand_over();
        }
        ExitCode::from(worker::AGAIN)
    }

    /// Waits for the last reader: who finds nobody would take holes for zeros (P1).
    async fn end(self: &Arc<Self>) -> anyhow::Result<ExitCode> {
        let stand_in = Arc::clone(self);
        spawn_blocking(move || {
            while !stand_in.front_ends.are_idle() {
                std::thread::sleep(PAUSE);
            }
        })
        .await?;
        listener::remove(&self.paths.socket(), &self.keeper);
        self.keeper.stop();
        Ok(ExitCode::SUCCESS)
    }
}
