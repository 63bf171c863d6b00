//! `larder run`: run a command inside an image.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ExitCode, ExitStatus};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;
use tokio::signal::unix::SignalKind;

use crate::api::client::Client;
use crate::api::types::UmountRequest;
use crate::cache_options::CacheOptions;
use crate::cli::{FrontEndName, Global};
use crate::commands::mount;
use crate::daemon::start;
use crate::errors::{Kind, tell};
use crate::output;
use crate::runtime;
use crate::signals::{Ends, is_in_foreground};

const EXAMPLES: &str = "\
Examples:
  larder run oci:/srv/images:app                             a shell in the image
  larder run registry.example/python:3 -- python3 -c 'print(1)'
  larder run oci:/srv/images -- /bin/ls -l /

The status is that of the command, or 128 and the number of the signal that ended it; 1 when it
could not be started.";

/// Arguments of `larder run`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The image: oci:DIR[:TAG] or HOST[:PORT]/REPOSITORY[:TAG|@DIGEST]. Without TAG: the only image of a layout,
    /// `latest` of a registry
    image: String,
    /// Mount through this front end instead of the best that works
    #[arg(long, value_enum)]
    frontend: Option<FrontEndName>,
    /// Speak plain HTTP to the registry (loopback addresses always do)
    #[arg(long)]
    insecure: bool,
    /// What to run, with its arguments
    #[arg(last = true, default_value = "/bin/sh", value_name = "CMD")]
    command: Vec<OsString>,
}

/// Runs `larder run`; its exit status is that of the command.
///
/// # Errors
///
/// When the image cannot be mounted, or the command not be started.
pub fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    let paths = global.paths()?;
    let dir = tempfile::Builder::new().prefix("larder-run-").tempdir().context("a temporary directory")?;
    let request = mount::request(&args.image, dir.path(), args.frontend, args.insecure)?;
    let runtime = runtime::for_command()?;
    let (client, mounted) = runtime.block_on(async {
        let (client, started) = start::ensure(&paths, global, &CacheOptions::default()).await?;
        let mounted = client.mount(&request).await;
        start::stop_if_needless(&client, started && mounted.is_err()).await;
        anyhow::Ok((client, mounted?))
    })?;
    let status = runtime.block_on(execute(&mounted.path, &args.command));
    let unmounted = runtime.block_on(unmount(&client, &mounted.path));
    if let Err(error) = unmounted {
        output::note(format!("warning: {}: still mounted: {error:#}", mounted.path.display()));
        // The directory is a mount point: it stays.
        let _ = dir.keep();
    }
    Ok(exit_code(status?))
}

/// Runs the command and waits for its end, whatever this program is told meanwhile: there is a mount to be taken away.
async fn execute(root: &Path, command: &[OsString]) -> anyhow::Result<ExitStatus> {
    let (program, args) = command.split_first().context("no command")?;
    let mut ends = Ends::catch()?;
    let started = larder_mount::ns::command(root, program).and_then(|mut command| {
        command.args(args);
        tokio::process::Command::from(command).spawn()
    });
    let mut child = started.with_context(|| {
        tell(
            Kind::Failed,
            format!("{} cannot be run in the image", program.display()),
            "`larder ls` lists what the image has; a mount namespace needs root or user namespaces",
        )
    })?;
    loop {
        let signal = tokio::select! {
            status = child.wait() => return Ok(status?),
            signal = ends.next() => signal,
        };
        // A terminal sends Ctrl-C to the command itself.
        if signal != SignalKind::interrupt() || !is_in_foreground() {
            pass_on(&child, signal);
        }
    }
}

fn pass_on(child: &Child, signal: SignalKind) {
    let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    let signal = Signal::from_named_raw(signal.as_raw_value());
    if let (Some(pid), Some(signal)) = (pid, signal) {
        // Who has just ended needs no signal.
        let _ = kill_process(pid, signal);
    }
}

/// Unmounts without waiting for processes that the command left behind.
async fn unmount(client: &Client, target: &Path) -> anyhow::Result<()> {
    let request = |lazy| UmountRequest { path: target.to_owned(), lazy };
    match client.umount(&request(false)).await {
        Ok(()) => Ok(()),
        Err(_) => client.umount(&request(true)).await,
    }
}

/// As shells do: the command's status, or 128 and the number of the signal that ended it.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
