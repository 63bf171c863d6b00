//! The command line: global options, one subcommand a file under `commands/`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::commands;
use crate::daemon::start::is_successor;
use crate::output::log::{self, LogOf};
use crate::paths::Paths;

const EXAMPLES: &str = "\
Examples:
  larder demo                                        see it work on this machine
  larder build dir:/srv/app oci:/srv/images:app      make an image
  larder mount registry.example/app:1 /mnt/app       mount it; bytes come when they are read
  larder status                                      what is mounted, and what was fetched";

/// Mounts container images at once and fetches what is read when it is read.
#[derive(Debug, Parser)]
#[command(name = "larder", version, after_help = EXAMPLES, arg_required_else_help = true)]
pub struct Cli {
    /// Options that every command understands.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every command understands.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Keep cache, state and control socket under DIR
    ///
    /// Without it: /var/lib/larder and /run/larder for root; for others $XDG_DATA_HOME/larder (~/.local/share/larder),
    /// and $XDG_RUNTIME_DIR/larder or, where that is not set, /tmp/larder-UID. build, serve, ls, cat, erofs and demo use
    /// none of these.
    #[arg(long, value_name = "DIR", env = "LARDER_ROOT", hide_env_values = true, global = true)]
    pub root: Option<PathBuf>,
    /// Print the result as JSON, with exact bytes and milliseconds (cat and run print what they print anyhow)
    #[arg(long, global = true)]
    pub json: bool,
    /// Say more on standard error; twice for requests too, three times for everything
    ///
    /// A daemon that this starts says one step more in its log; one that runs already is not changed.
    #[arg(short, long, action = ArgAction::Count, global = true)]
    pub verbose: u8,
}

impl Global {
    /// Where everything lies on this host for this user.
    ///
    /// # Errors
    ///
    /// When a directory cannot be named or belongs to another user.
    pub fn paths(&self) -> anyhow::Result<Paths> {
        Paths::choose(self.root.as_deref())
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the whole way on this machine: build, serve, mount, run, compare
    Demo(commands::demo::Args),
    /// Build an image from a directory or a tar archive
    Build(commands::build::Args),
    /// Serve an image layout as a registry
    Serve(commands::serve::Args),
    /// Mount an image, or a tree of a remote store, on demand
    Mount(commands::mount::Args),
    /// Unmount an image or a tree
    Umount(commands::umount::Args),
    /// Run a command inside an image
    Run(commands::run::Args),
    /// List files of an image without mounting it
    Ls(commands::ls::Args),
    /// Print a file of an image without mounting it
    Cat(commands::cat::Args),
    /// Show mounts, blobs and what was fetched
    Status(commands::status::Args),
    /// Look at the cache, decide what stays, check what is there
    Cache(commands::cache::Args),
    /// Look into EROFS image files, check them, take them apart
    Erofs(commands::erofs::Args),
    /// Show trace events as they happen
    Trace(commands::trace::Args),
    /// Tell which front ends work on this host, and why the others do not
    Doctor(commands::doctor::Args),
    /// Run, detach, replace or stop the daemon
    Daemon(commands::daemon::Args),
    /// The process that does the daemon's work; the keeper starts it
    #[command(hide = true)]
    Worker(commands::worker::Args),
}

/// A front end as the command line names it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum FrontEndName {
    /// Kernel EROFS on the cache's own files; needs root and Linux 6.14
    Fanotify,
    /// Kernel EROFS on files that the daemon shows through FUSE; needs root and Linux 6.12
    FuseBlob,
    /// Kernel EROFS over the kernel's own fscache; needs root and a kernel from 6.1 to 7.1 built for it
    Cachefiles,
    /// The file system in user space; works without root
    Fuse,
}

impl FrontEndName {
    /// The name as the API and the state files spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fanotify => "fanotify",
            Self::FuseBlob => "fuse-blob",
            Self::Cachefiles => "cachefiles",
            Self::Fuse => "fuse",
        }
    }
}

impl Command {
    fn log_of(&self) -> LogOf {
        match self {
            Self::Worker(_) => LogOf::Worker,
            Self::Daemon(_) if is_successor() => LogOf::Successor,
            _ => LogOf::Command,
        }
    }
}

/// Parses the command line and runs the command.
///
/// # Errors
///
/// Whatever the command returns; wrong usage ends the process with status 2 before.
pub fn main() -> anyhow::Result<ExitCode> {
    let cli = parse(std::env::args_os().collect());
    let trace = log::start(cli.global.verbose, cli.command.log_of())?;
    let global = &cli.global;
    match cli.command {
        Command::Demo(args) => commands::demo::run(args, global),
        Command::Build(args) => commands::build::run(args, global),
        Command::Serve(args) => commands::serve::run(args, global),
        Command::Mount(args) => commands::mount::run(args, global),
        Command::Umount(args) => commands::umount::run(args, global),
        Command::Run(args) => commands::run::run(args, global),
        Command::Ls(args) => commands::ls::run(args, global),
        Command::Cat(args) => commands::cat::run(args, global),
        Command::Status(args) => commands::status::run(args, global),
        Command::Cache(args) => commands::cache::run(args, global),
        Command::Erofs(args) => commands::erofs::run(args, global),
        Command::Trace(args) => commands::trace::run(args, global),
        Command::Doctor(args) => commands::doctor::run(args, global),
        Command::Daemon(args) => commands::daemon::run(args, global),
        Command::Worker(args) => commands::worker::run(args, global, trace),
    }
}

/// Parses the command line, or ends the process.
fn parse(mut args: Vec<OsString>) -> Cli {
    Cli::try_parse_from(&args).unwrap_or_else(|error| {
        if error.kind() != ErrorKind::MissingSubcommand {
            error.exit();
        }
        // An option from the environment keeps clap from taking a lone name for a question. It is one all the same.
        args.push("-h".into());
        let help = Cli::try_parse_from(&args).map_or_else(|help| help, |_| error);
        crate::output::note(help.render().to_string().trim_end());
        std::process::exit(2)
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
