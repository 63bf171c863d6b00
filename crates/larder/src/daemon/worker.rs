//! The worker process: from its start to its end.

use std::os::fd::RawFd;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use anyhow::Context as _;
use larder_cachefiles::{BootId, Cachefiles, Config};
use larder_faults::{Site, point};
use larder_mount::keeper::{self, Holder, NoKeeper};
use larder_ondemand::{Engine, EngineConfig};
use larder_remote::{HttpClient, Policy};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc};

use super::front_ends::FrontEnds;
use super::holder::Kept;
use super::start::Options;
use super::table::MountTable;
use super::trees::Trees;
use super::{Daemon, listener, start, upkeep};
use crate::api::server;
use crate::errors::Report;
use crate::paths::Paths;
use crate::runtime;
use crate::store::Store;
use crate::trace::Hub;

/// Exit status that asks the keeper for another worker: EX_TEMPFAIL of sysexits.h.
const AGAIN: u8 = 75;

/// Runs the worker until it is told to stop.
///
/// # Errors
///
/// What kept it from starting. The first worker also tells the keeper not to try again, and leaves the reason for
/// whoever started the daemon; a later one has mounts that wait, and is tried again.
pub fn run(paths: Paths, options: Options, trace: Arc<Hub>) -> anyhow::Result<ExitCode> {
    crate::sys::limit_malloc_arenas();
    paths.create()?;
    let keeper = connect_keeper(&paths, &options)?;
    let is_first = keeper.as_ref().is_none_or(|keeper| keeper.restarts() == 0 && keeper.names().is_empty());
    let result = runtime::for_worker()?.block_on(work(paths.clone(), options, keeper.clone(), trace));
    if let (Err(error), true) = (&result, is_first) {
        let text = serde_json::to_vec(&Report::of(error))?;
        drop(std::fs::write(paths.start_error(), text));
        if let Some(keeper) = keeper {
            keeper.stop();
        }
    }
    result
}

fn connect_keeper(paths: &Paths, options: &Options) -> anyhow::Result<Option<keeper::Client>> {
    let Some(number) = std::env::var_os(keeper::FD_ENV) else {
        tracing::warn!("no keeper: the mounts will not survive the end of this process");
        return Ok(None);
    };
    let number: RawFd =
        number.to_str().and_then(|text| text.parse().ok()).context("the keeper's descriptor is no number")?;
    let launch = keeper::Launch {
        program: start::program()?,
        keeper_args: vec!["keeper".into()],
        worker_argv: start::worker_argv(paths, options)?,
    };
    Ok(Some(keeper::Client::connect(number, launch).context("the keeper does not answer")?))
}

async fn work(
    paths: Paths,
    options: Options,
    keeper: Option<keeper::Client>,
    trace: Arc<Hub>,
) -> anyhow::Result<ExitCode> {
    let holder = holder(keeper.as_ref());
    let engine = Engine::new(tokio::runtime::Handle::current(), EngineConfig::default());
    let (complete, completed) = mpsc::unbounded_channel();
    engine.on_complete(move |blob| drop(complete.send(Arc::clone(blob))));
    let cachefiles = Cachefiles::open(Config {
        limits: options.limits.limits(),
        tag: options.limits.tag(),
        ..Config::new(paths.cache(), BootId::of_this_machine()?, Arc::new(Kept(Arc::clone(&holder))))
    })?;
    let store = Store::new(cachefiles, Arc::clone(&engine))?;
    let trees = Trees::new(Arc::clone(&holder), Arc::clone(&engine), store.cache())?;
    let daemon = Arc::new(Daemon {
        trees,
        front_ends: Arc::new(FrontEnds::new(paths.cache(), Arc::clone(&holder), Arc::clone(&engine))),
        store,
        http: HttpClient::new(Policy::default())?,
        mounts: MountTable::default(),
        leaving: Mutex::default(),
        keeper,
        trace,
        stopping: AtomicBool::new(false),
        stopped: Arc::new(Notify::new()),
        paths,
    });
    daemon.open_inherited().await;
    point(Site::LarderResume);
    daemon.resume_all().await?;
    let listener = listener::take_or_bind(&daemon.paths.socket(), &*holder)?;
    tokio::spawn(upkeep::seal(Arc::clone(&daemon), completed));
    tokio::spawn(upkeep::commit_regularly(Arc::clone(&daemon)));
    tracing::info!(socket = %daemon.paths.socket().display(), mounts = daemon.mounts.all().len(), "ready");
    serve(daemon, UnixListener::from_std(listener)?).await
}

fn holder(keeper: Option<&keeper::Client>) -> Arc<dyn Holder> {
    match keeper {
        Some(keeper) => Arc::new(keeper.clone()),
        None => Arc::new(NoKeeper),
    }
}

async fn serve(daemon: Arc<Daemon>, listener: UnixListener) -> anyhow::Result<ExitCode> {
    let ended = Arc::new(Notify::new());
    let until = Arc::clone(&ended);
    let server =
        tokio::spawn(server::serve(listener, Arc::clone(&daemon), async move { until.notified().await }));
    let code = wait_for_end(&daemon).await?;
    ended.notify_one();
    daemon.end_tracing();
    // A caller that keeps its connection open does not keep the process alive.
    drop(tokio::time::timeout(std::time::Duration::from_secs(2), server).await);
    tracing::info!("ended");
    Ok(code)
}

/// Returns when the process may end: all is unmounted, or everything that another worker needs is durable.
async fn wait_for_end(daemon: &Arc<Daemon>) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut replace = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            () = daemon.stopped.notified() => return Ok(ExitCode::SUCCESS),
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = replace.recv() => {
                let daemon = Arc::clone(daemon);
                tokio::task::spawn_blocking(move || daemon.hand_over()).await?;
                return Ok(ExitCode::from(AGAIN));
            }
        }
        // The service manager wants an end: what is in use is detached, so that nobody can open it any more.
        if let Err(error) = daemon.stop(true).await {
            tracing::error!("cannot stop: {error:#}");
        }
    }
}
