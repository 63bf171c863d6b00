//! Starting the daemon: the client's side.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use larder_mount::keeper::{START_LIMIT_ENV, start_limit};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};

use super::patience::{Over, Patience};
use super::served_with;
use crate::api::client::Client;
use crate::api::types::StopRequest;
use crate::cache_options::CacheOptions;
use crate::cli::Global;
use crate::config::Config;
use crate::errors::{Kind, Report, told};
use crate::paths::Paths;

/// How long a daemon may take that is just ending.
const DEADLINE: Duration = Duration::from_secs(30);

/// How long a daemon may take to unmount everything and end.
pub const STOP_DEADLINE: Duration = Duration::from_secs(60);

/// Between two looks at whether it answers, or is gone.
const PAUSE: Duration = Duration::from_millis(10);

/// What a daemon is started with: the same for every worker of its life.
#[derive(Clone, Debug)]
pub struct Options {
    /// How much it says.
    pub verbose: u8,
    /// How much disk its cache may take.
    pub limits: CacheOptions,
}

impl Options {
    /// What the command line says, and the configuration file where it says nothing.
    ///
    /// # Errors
    ///
    /// When the file cannot be used, the limits contradict each other, or the environment has one that is none; never for a
    /// [successor](is_successor).
    pub fn choose(paths: &Paths, verbose: u8, limits: CacheOptions) -> anyhow::Result<Self> {
        check_start_limit()?;
        let chosen = with_file(paths, limits.clone());
        let limits = if is_successor() { served_with::heed(paths, limits, chosen) } else { chosen? };
        Ok(Self { verbose, limits })
    }
}

fn with_file(paths: &Paths, limits: CacheOptions) -> anyhow::Result<CacheOptions> {
    let limits = limits.or(Config::read(&paths.config())?.cache);
    limits.check()?;
    Ok(limits)
}

/// Whether this process follows a keeper that has died, and whose descriptors the service manager has kept: readers wait for
/// it, so that it starts, whatever the environment and the configuration file say.
pub fn is_successor() -> bool {
    std::env::var_os("LISTEN_FDS").is_some()
}

/// The keeper has nobody to complain to, and goes on with its default; empty it asks for nothing.
fn check_start_limit() -> anyhow::Result<()> {
    let text = std::env::var_os(START_LIMIT_ENV).unwrap_or_default();
    if text.is_empty() || start_limit(&text).is_some() {
        return Ok(());
    }
    let error = told(
        Kind::BadRequest,
        format!("{START_LIMIT_ENV}={}: is no number", text.display()),
        "write whole seconds, as in 180",
    );
    if is_successor() {
        tracing::error!("{error:#}: the default applies");
        return Ok(());
    }
    Err(error)
}

/// The command line of a worker that runs `program`, program first.
pub fn worker_argv(program: OsString, paths: &Paths, options: &Options) -> Vec<OsString> {
    let mut argv = vec![program];
    if let Some(root) = paths.root() {
        argv.extend(["--root".into(), root.into()]);
    }
    argv.extend((0..options.verbose).map(|_| OsString::from("--verbose")));
    argv.push("worker".into());
    argv.extend(options.limits.to_args());
    argv
}

/// The program itself, by a path that stays good after a replacement of the file: the new one is meant then.
///
/// # Errors
///
/// When the kernel does not tell where the program lies.
pub fn program() -> anyhow::Result<OsString> {
    Ok(std::env::current_exe().context("the program's own path")?.into_os_string())
}

/// The command that runs a keeper with a worker under it.
///
/// # Errors
///
/// When the kernel does not tell where the program lies.
pub fn keeper_command(paths: &Paths, options: &Options) -> anyhow::Result<Command> {
    let argv = worker_argv(program()?, paths, options);
    let mut command = Command::new(program()?);
    command.arg("keeper").arg("--").args(argv).env_remove("LARDER_ROOT");
    Ok(command)
}

/// Returns a client of the daemon that serves `paths`, after starting it when none runs. Also tells whether it was
/// started.
///
/// # Errors
///
/// What kept it from starting.
pub async fn ensure(paths: &Paths, global: &Global, limits: &CacheOptions) -> anyhow::Result<(Client, bool)> {
    let client = Client::new(paths);
    if answers(&client).await {
        return Ok((client, false));
    }
    let options = Options::choose(paths, global.verbose, limits.clone())?;
    paths.create()?;
    let _lock = lock(&paths.start_lock())?;
    if answers(&client).await {
        return Ok((client, false));
    }
    drop(fs::remove_file(paths.start_error()));
    let mut patience = Patience::new(&paths.log());
    let mut keeper = spawn(paths, &options)?;
    while !client.is_running().await {
        if let Some(status) = keeper.try_wait()? {
            return Err(failed(paths, &format!("the keeper ended with {status}")));
        }
        if let Some(over) = patience.is_over() {
            return Err(not_waited_for(paths, &keeper, over));
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok((client, true))
}

/// Whether a daemon answers. One that is just ending may still accept a connection; that is waited for.
async fn answers(client: &Client) -> bool {
    let begun = Instant::now();
    while client.is_running().await {
        if client.status().await.is_ok() || begun.elapsed() > DEADLINE {
            return true;
        }
        tokio::time::sleep(PAUSE).await;
    }
    false
}

/// Stops a daemon that was started for a mount which then failed: nothing stays behind of it. One that has got other
/// mounts in the meantime stays.
pub async fn stop_if_needless(client: &Client, needless: bool) {
    if !needless {
        return;
    }
    let stopped = async {
        let status = client.status().await?;
        if status.mounts.is_empty() {
            client.stop(&StopRequest::default()).await?;
            let keeper = status.keeper.map(|keeper| keeper.pid);
            wait_for_end(client, keeper, STOP_DEADLINE).await;
        }
        anyhow::Ok(())
    };
    if let Err(error) = stopped.await {
        tracing::warn!("the daemon that was started stays: {error:#}");
    }
}

/// Waits until neither the socket answers nor the keeper lives; tells whether that came about in time.
pub async fn wait_for_end(client: &Client, keeper: Option<u32>, at_most: Duration) -> bool {
    let begun = Instant::now();
    while client.is_running().await || keeper.is_some_and(lives) {
        if begun.elapsed() > at_most {
            return false;
        }
        tokio::time::sleep(PAUSE).await;
    }
    true
}

fn lives(pid: u32) -> bool {
    // A process that has ended and waits for its parent has no command line any more.
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

/// Keeps others from starting or replacing a daemon until the result is dropped. Blocks while somebody else does.
///
/// # Errors
///
/// When the file cannot be opened or locked.
pub(super) fn lock(path: &Path) -> anyhow::Result<File> {
    let place = || format!("{}: cannot be locked", path.display());
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).with_context(place)?;
    flock(&file, FlockOperation::LockExclusive).with_context(place)?;
    Ok(file)
}

fn spawn(paths: &Paths, options: &Options) -> anyhow::Result<Child> {
    let log = paths.log();
    let place = || format!("{}: cannot be opened", log.display());
    let log = OpenOptions::new().create(true).append(true).open(paths.log()).with_context(place)?;
    let mut command = keeper_command(paths, options)?;
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().with_context(place)?)
        .stderr(log)
        .current_dir("/")
        // Its own group, so that the terminal's Ctrl-C does not reach it; the keeper then leaves the session.
        .process_group(0);
    command.spawn().context("the keeper cannot be started")
}

/// The daemon neither answers nor ends. It goes on: without its keeper the worker would start another one. A keeper whose
/// workers die is told to end, which it does unless it keeps something.
fn not_waited_for(paths: &Paths, keeper: &Child, over: Over) -> anyhow::Error {
    let why = match over {
        Over::Deaths(deaths) => {
            if let Err(error) = kill_process(Pid::from_child(keeper), Signal::TERM) {
                tracing::warn!(%error, "the keeper goes on");
            }
            return failed(paths, &format!("{deaths} workers in a row ended before they served"));
        }
        Over::Silent(lasted) => format!("has said nothing for {lasted:?}"),
        Over::TooLong(lasted) => format!("has not done so for {lasted:?}"),
    };
    told(
        Kind::Failed,
        format!("the daemon does not answer, and {why}; its keeper is process {}", keeper.id()),
        format!(
            "it goes on, and a worker that hangs is started again: `larder status` answers when it serves, and its log is {}",
            paths.log().display()
        ),
    )
}

/// What kept the daemon from starting, as the worker left it.
fn failed(paths: &Paths, otherwise: &str) -> anyhow::Error {
    let told_by_worker =
        fs::read(paths.start_error()).ok().and_then(|text| serde_json::from_slice(&text).ok());
    match told_by_worker.map(Report::into_error) {
        Some(error) => error.context("the daemon did not start"),
        None => told(
            Kind::Failed,
            format!("the daemon did not start: {otherwise}"),
            format!("its log is {}", paths.log().display()),
        ),
    }
}
