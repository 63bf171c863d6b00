//! The worker process: from its start to its end.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use larder_cachefiles::{BootId, Cachefiles, Config};
use larder_faults::{Site, point};
use larder_mount::keeper::{self, Holder, NoKeeper};
use larder_ondemand::{Blob, Engine, EngineConfig};
use larder_remote::{HttpClient, Policy};
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::complaints::Complaints;
use super::front_ends::FrontEnds;
use super::gate::Gate;
use super::holder::Kept;
use super::signals::{self, Signals, TRY_AGAIN};
use super::start::Options;
use super::table::MountTable;
use super::trees::Trees;
use super::waiting::Waiting;
use super::{Daemon, formats, listener, start, upkeep};
use crate::api::server;
use crate::errors::Report;
use crate::paths::Paths;
use crate::runtime;
use crate::store::Store;
use crate::trace::Hub;

/// Exit status that asks the keeper for another worker: EX_TEMPFAIL of sysexits.h.
pub(super) const AGAIN: u8 = 75;

/// How long threads that block may take to end with the process.
const LEAVE_MAX: Duration = Duration::from_secs(10);

/// Runs the worker until it is told to stop.
///
/// # Errors
///
/// What kept it from starting, which it also leaves for whoever started the daemon, or stands in for it. The first worker
/// tells the keeper not to try again; a later one has mounts that wait, and is tried again.
pub fn run(paths: Paths, options: Options, trace: Arc<Hub>) -> anyhow::Result<ExitCode> {
    crate::sys::limit_malloc_arenas();
    let keeper = connect_keeper(&paths, &options)?;
    let is_first = keeper.as_ref().is_none_or(|keeper| keeper.restarts() == 0 && keeper.names().is_empty());
    let result = begin(paths.clone(), options, keeper.clone(), trace);
    if let Err(error) = &result {
        let text = serde_json::to_vec(&Report::of(error)).unwrap_or_default();
        drop(std::fs::write(paths.start_error(), text));
        // Once there is a front end, somebody may read through it, and the keeper holds what must not be closed.
        if let Some(keeper) = keeper
            && is_first
            && FrontEnds::inherited(&keeper.names()).next().is_none()
        {
            keeper.stop();
        }
    }
    result
}

fn begin(
    paths: Paths,
    options: Options,
    keeper: Option<keeper::Client>,
    trace: Arc<Hub>,
) -> anyhow::Result<ExitCode> {
    paths.create()?;
    // What an earlier one died of.
    drop(std::fs::remove_file(paths.start_error()));
    let runtime = runtime::for_worker()?;
    let result = runtime.block_on(work(paths, options, keeper, trace));
    leave(runtime, &result);
    result
}

/// Ends `runtime`. A process that makes way waits for nothing: a thread of its may be in the kernel, in a mount that waits
/// for an answer which only the next worker gives. Any other waits a while, and for nobody who hangs.
pub(super) fn leave(runtime: Runtime, result: &anyhow::Result<ExitCode>) {
    let makes_way = result.as_ref().is_ok_and(|code| *code == ExitCode::from(AGAIN));
    runtime.shutdown_timeout(if makes_way { Duration::ZERO } else { LEAVE_MAX });
}

fn connect_keeper(paths: &Paths, options: &Options) -> anyhow::Result<Option<keeper::Client>> {
    if std::env::var_os(keeper::FD_ENV).is_none() {
        tracing::warn!("no keeper: the mounts will not survive the end of this process");
        return Ok(None);
    }
    let worker_argv = start::worker_argv(start::program()?, paths, options);
    connect(worker_argv, false).map(Some)
}

/// Connects to the keeper that has started this process; it starts later workers with `worker_argv`.
pub(super) fn connect(worker_argv: Vec<OsString>, stands_in: bool) -> anyhow::Result<keeper::Client> {
    let number = std::env::var(keeper::FD_ENV).context("no keeper has started this process")?;
    let number: RawFd = number.parse().context("the keeper's descriptor is no number")?;
    // By its path it could be another release's by now, or half of one, and nobody would hold what this worker has.
    let (program, keeper_args) = (keeper::OWN_PROGRAM.into(), vec!["keeper".into()]);
    let launch = keeper::Launch { program, keeper_args, worker_argv, stands_in };
    keeper::Client::connect(number, launch).context("the keeper does not answer")
}

async fn work(
    paths: Paths,
    options: Options,
    keeper: Option<keeper::Client>,
    trace: Arc<Hub>,
) -> anyhow::Result<ExitCode> {
    let (daemon, completed) = open(paths, options, keeper, trace)?;
    daemon.open_inherited().await;
    point(Site::LarderResume);
    daemon.resume_all().await?;
    let listener = listener::take_or_bind(&daemon.paths.socket(), daemon.holder())?;
    let signals = Signals::new()?;
    if let Some(keeper) = &daemon.keeper {
        keeper.ready();
        tokio::spawn(upkeep::show_signs_of_life(keeper.clone()));
    }
    tokio::spawn(upkeep::note_options(Arc::clone(&daemon)));
    tokio::spawn(upkeep::seal(Arc::clone(&daemon), completed));
    tokio::spawn(upkeep::commit_regularly(Arc::clone(&daemon)));
    tracing::info!(socket = %daemon.paths.socket().display(), mounts = daemon.mounts.all().len(), "ready");
    serve(daemon, UnixListener::from_std(listener)?, signals).await
}

/// Opens the daemon's cache and all that goes with it; also returns where the blobs come that are complete. Blocks.
pub(super) fn open(
    paths: Paths,
    options: Options,
    keeper: Option<keeper::Client>,
    trace: Arc<Hub>,
) -> anyhow::Result<(Arc<Daemon>, mpsc::UnboundedReceiver<Arc<Blob>>)> {
    let holder = holder(keeper.as_ref());
    formats::check_state(&paths, !holder.names().is_empty())?;
    let engine = Engine::new(tokio::runtime::Handle::current(), EngineConfig::default());
    let (complete, completed) = mpsc::unbounded_channel();
    engine.on_complete(move |blob| drop(complete.send(Arc::clone(blob))));
    let front_ends = Arc::new(FrontEnds::new(paths.cache(), Arc::clone(&holder), Arc::clone(&engine)));
    let kept = Arc::new(Kept::new(Arc::clone(&holder), Arc::clone(&front_ends)));
    let cachefiles = Cachefiles::open(Config {
        limits: options.limits.limits(),
        tag: options.limits.tag(),
        ..Config::new(paths.cache(), BootId::of_this_machine()?, Arc::clone(&kept) as _)
    })?;
    let store = Store::new(cachefiles, Arc::clone(&engine))?;
    let trees = Trees::new(Arc::clone(&holder), Arc::clone(&engine), store.cache())?;
    let daemon = Arc::new(Daemon {
        trees,
        front_ends,
        store,
        http: HttpClient::new(Policy::default())?,
        mounts: MountTable::default(),
        waiting: Waiting::default(),
        gate: Gate::default(),
        opening: Semaphore::new(runtime::OPENING_MAX),
        leaving: Mutex::default(),
        keeper,
        kept,
        trace,
        options,
        complaints: Complaints::default(),
        make_way: Notify::new(),
        cache_hangs: AtomicBool::new(false),
        stopped: Arc::new(Notify::new()),
        paths,
    });
    Ok((daemon, completed))
}

fn holder(keeper: Option<&keeper::Client>) -> Arc<dyn Holder> {
    match keeper {
        Some(keeper) => Arc::new(keeper.clone()),
        None => Arc::new(NoKeeper),
    }
}

async fn serve(daemon: Arc<Daemon>, listener: UnixListener, signals: Signals) -> anyhow::Result<ExitCode> {
    let code = answer_until(listener, server::worker(Arc::clone(&daemon)), async {
        let code = wait_for_end(&daemon, signals).await;
        daemon.end_tracing();
        code
    });
    let code = code.await?;
    if !daemon.cache_hangs.load(Ordering::Acquire) {
        // On this thread, which has nothing else to do: those that may block may all be in the kernel, in mounts that wait.
        daemon.store.cache().backend().close_index();
    }
    tracing::info!("ended");
    Ok(code)
}

/// Answers callers until `end` is done, those who are being answered then as well.
pub(super) async fn answer_until(
    listener: UnixListener,
    router: Router,
    end: impl Future<Output = anyhow::Result<ExitCode>>,
) -> anyhow::Result<ExitCode> {
    let ended = Arc::new(Notify::new());
    let until = Arc::clone(&ended);
    let server = tokio::spawn(server::serve(listener, router, async move { until.notified().await }));
    let code = end.await?;
    ended.notify_one();
    // A caller that keeps its connection open does not keep the process alive.
    drop(tokio::time::timeout(Duration::from_secs(2), server).await);
    Ok(code)
}

async fn hand_over(daemon: &Arc<Daemon>) -> anyhow::Result<ExitCode> {
    let daemon = Arc::clone(daemon);
    tokio::task::spawn_blocking(move || daemon.hand_over()).await?;
    Ok(ExitCode::from(AGAIN))
}

/// Returns when the process may end: all is unmounted, or everything is left to another worker.
async fn wait_for_end(daemon: &Arc<Daemon>, mut signals: Signals) -> anyhow::Result<ExitCode> {
    let mut try_again = false;
    // It may take its time, and who is to make way must not wait for it.
    let mut stop = JoinSet::new();
    loop {
        tokio::select! {
            () = daemon.stopped.notified() => return Ok(ExitCode::SUCCESS),
            _ = signals.terminate.recv() => {}
            _ = signals.interrupt.recv() => {}
            _ = signals.replace.recv() => match daemon.gate.hand_over() {
                true => return hand_over(daemon).await,
                false => continue,
            },
            () = daemon.make_way.notified() => match daemon.gate.hand_over() {
                true => return hand_over(daemon).await,
                false => continue,
            },
            () = sleep(TRY_AGAIN), if try_again => {}
            Some(done) = stop.join_next() => {
                try_again = signals::is_to_be_tried_again(&daemon.complaints, done.map_err(anyhow::Error::from).flatten());
                continue;
            }
        }
        if stop.is_empty() {
            // The service manager wants an end: what is in use is detached, so that nobody can open it any more.
            let daemon = Arc::clone(daemon);
            stop.spawn(async move { daemon.stop(true).await });
            try_again = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal, getpid, kill_process};
    use tokio::time::timeout;

    use super::super::testing::{Doorkeeper, FakeMount, daemon};
    use super::*;

    /// Longer than anything takes that goes on at all.
    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test(flavor = "multi_thread")]
    async fn p4_a_worker_makes_way_while_a_stop_that_a_signal_asks_for_takes_its_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let (daemon, keeper) = (daemon(dir.path()), Doorkeeper::default());
        daemon.add_mount(FakeMount { door: Some(keeper.door()), ..FakeMount::at("/m") }, Vec::new());
        let signals = Signals::new().expect("a runtime with signals");
        let ends = tokio::spawn({
            let daemon = Arc::clone(&daemon);
            async move { wait_for_end(&daemon, signals).await }
        });
        kill_process(getpid(), Signal::TERM).expect("this process hears it");
        timeout(LONG, keeper.somebody_comes()).await.expect("the stop has begun");
        daemon.make_way.notify_one();
        let code =
            timeout(LONG, ends).await.expect("it hears that, too").expect("no panic").expect("it ends");
        assert_eq!(code, ExitCode::from(AGAIN));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn p4_a_daemon_that_a_stop_has_ended_makes_way_for_nobody() {
        let dir = tempfile::tempdir().expect("a directory");
        let daemon = daemon(dir.path());
        daemon.gate.close().await.for_good();
        let signals = Signals::new().expect("a runtime with signals");
        daemon.make_way.notify_one();
        let mut ends = tokio::spawn({
            let daemon = Arc::clone(&daemon);
            async move { wait_for_end(&daemon, signals).await }
        });
        timeout(Duration::from_millis(500), &mut ends).await.expect_err("it waits for the last reader");
        daemon.stopped.notify_one();
        let code = timeout(LONG, ends).await.expect("it hears that").expect("no panic").expect("it ends");
        assert_eq!(code, ExitCode::SUCCESS);
    }
}
