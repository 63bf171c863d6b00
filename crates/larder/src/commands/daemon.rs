//! `larder daemon`: run, detach, replace or stop the daemon.

use std::os::unix::process::CommandExt as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;

use crate::api::client::Client;
use crate::api::types::StopRequest;
use crate::cache_options::CacheOptions;
use crate::cli::Global;
use crate::daemon::{self, start};
use crate::errors::{Kind, told};
use crate::output;
use crate::runtime;

/// How long to wait for the end when what is in use may keep the daemon alive.
const LAZY_STOP_DEADLINE: Duration = Duration::from_secs(2);

const EXAMPLES: &str = "\
Examples:
  larder daemon                 run in the foreground, as a service manager wants it
  larder daemon --detach        run in the background; `larder mount` does this by itself
  larder daemon --quota 20GiB   with a cache that takes 20 GiB at most
  larder daemon --replace       this program's worker takes over; mounts and who reads from them stay
  larder daemon --stop          unmount everything, make the cache durable, end
  larder daemon --stop --lazy   the same, and detach what is in use";

/// Arguments of `larder daemon`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Run in the background, and return when it answers
    #[arg(long, conflicts_with = "stop")]
    detach: bool,
    /// Let this program take over from the running daemon's; whoever reads waits for a moment
    #[arg(long, conflicts_with_all = ["detach", "stop"])]
    replace: bool,
    /// Unmount everything and end the running daemon
    #[arg(long)]
    stop: bool,
    /// With --stop: detach mounts that are in use instead of refusing
    #[arg(long, requires = "stop")]
    lazy: bool,
    #[command(flatten)]
    limits: CacheOptions,
}

/// Runs `larder daemon`.
///
/// # Errors
///
/// When it cannot be started or stopped.
pub fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    if args.stop {
        refuse_limits(&args.limits, "--stop takes no limits")?;
        return stop(args.lazy, global);
    }
    if args.replace {
        refuse_limits(&args.limits, "--replace takes no limits")?;
        return replace(global);
    }
    if args.detach {
        return detach(args.limits, global);
    }
    foreground(args.limits, global)
}

/// CacheOptions that would do nothing are refused.
fn refuse_limits(limits: &CacheOptions, why: &str) -> anyhow::Result<()> {
    if limits.is_set() {
        return Err(told(Kind::BadRequest, why, "the limits of a daemon are those it was started with"));
    }
    Ok(())
}

fn detach(limits: CacheOptions, global: &Global) -> anyhow::Result<ExitCode> {
    let paths = global.paths()?;
    let (status, started) = runtime::for_command()?.block_on(async {
        let (client, started) = start::ensure(&paths, global, &limits).await?;
        if !started {
            refuse_limits(&limits, "a daemon runs already, with limits of its own")?;
        }
        anyhow::Ok((client.status().await?, started))
    })?;
    if global.json {
        output::json(&status)?;
    } else {
        let how = if started { "runs" } else { "ran already" };
        output::note(format!("the daemon {how}: worker {}", status.worker.pid));
    }
    Ok(ExitCode::SUCCESS)
}

/// Becomes the keeper: the service manager's process is then the one that ends last.
fn foreground(limits: CacheOptions, global: &Global) -> anyhow::Result<ExitCode> {
    let paths = global.paths()?;
    // A control socket that a service manager kept for its keeper takes callers without a daemon.
    if !start::is_successor() && runtime::for_command()?.block_on(Client::new(&paths).is_running()) {
        return Err(told(
            Kind::Conflict,
            format!("{}: a daemon answers here already", paths.socket().display()),
            "`larder status` shows it, `larder daemon --stop` ends it",
        ));
    }
    let options = start::Options::choose(&paths, global.verbose, limits)?;
    paths.create()?;
    let error = start::keeper_command(&paths, &options)?.exec();
    Err(error).context("the keeper cannot be started")
}

fn replace(global: &Global) -> anyhow::Result<ExitCode> {
    let paths = global.paths()?;
    let (before, after) = runtime::for_command()?.block_on(daemon::replace::replace(&paths))?;
    if global.json {
        output::json(&after)?;
    } else {
        output::note(format!(
            "worker {} of version {} has taken over from worker {} of version {}",
            after.worker.pid, after.version, before.worker.pid, before.version
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn stop(lazy: bool, global: &Global) -> anyhow::Result<ExitCode> {
    let paths = global.paths()?;
    let ended = runtime::for_command()?.block_on(async {
        let client = Client::new(&paths);
        let keeper = client.status().await?.keeper.map(|keeper| keeper.pid);
        client.stop(&StopRequest { lazy }).await?;
        let at_most = if lazy { LAZY_STOP_DEADLINE } else { start::STOP_DEADLINE };
        anyhow::Ok(start::wait_for_end(&client, keeper, at_most).await)
    })?;
    if !ended && !lazy {
        let message =
            format!("everything is unmounted, but the daemon did not end within {:?}", start::STOP_DEADLINE);
        return Err(told(
            Kind::Failed,
            message,
            "a process in another mount namespace may still use a mount",
        ));
    }
    if global.json {
        output::json(&serde_json::json!({ "stopped": ended }))?;
    } else if !ended {
        output::note("everything is detached; the daemon ends when nobody reads from it any more");
    }
    Ok(ExitCode::SUCCESS)
}
