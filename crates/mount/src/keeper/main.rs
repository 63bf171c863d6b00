//! The keeper's entry: it becomes small, hard to kill and nobody's child, then watches.

use std::ffi::OsString;
use std::process::exit;

use rustix::process::{Resource, Rlimit, getpid, getrlimit, set_child_subreaper, setrlimit, setsid};

use super::manager::Manager;
use super::say::say;
use super::supervise::{Supervisor, Worker};
use crate::sys::process::{inherit, signal_fd};

/// Descriptors a process may have, at most: a bound for the journal and for the sweep of a successor.
const DESCRIPTORS_MAX: u64 = 524_288;

/// The argument that makes a new keeper take charge of a worker that runs already.
pub(super) const ADOPT: &str = "--adopt";

/// Runs the keeper; never returns.
///
/// `args` is what follows the program's name and the word that led here: `-- WORKER ARGS...`, or
/// `--adopt -- WORKER ARGS...` with the worker's socket as standard input. `WORKER ARGS...` is the command line of a
/// worker. To be called first thing in `main`, while the process has one thread.
///
/// The exit status is 0 once a worker has ended cleanly, and 2 when `args` is none of the above.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ! {
    let mut args = args.into_iter().peekable();
    let adopt = args.next_if(|arg| arg == ADOPT).is_some();
    let separated = args.next().is_some_and(|arg| arg == "--");
    let argv: Vec<OsString> = args.collect();
    if !separated || argv.is_empty() {
        say!("usage: keeper [--adopt] -- WORKER [ARGS...]");
        exit(2);
    }
    // Before anything is opened here: whatever had the number of one that was not passed would be taken for it.
    let store = Manager::passed();
    let signals = match signal_fd(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGCHLD]) {
        Ok(signals) => signals,
        Err(error) => {
            say!("signals: {error}");
            exit(1);
        }
    };
    let manager = Manager::from_env().unwrap_or_else(|error| {
        say!("the service manager: {error}");
        None
    });
    settle();
    let worker = if adopt {
        match inherit(0).and_then(Worker::adopt) {
            Ok(worker) => Some(worker),
            Err(error) => {
                say!("{error}");
                exit(1);
            }
        }
    } else {
        None
    };
    Supervisor::new(argv, signals, store, manager).run(worker);
    exit(0);
}

/// Leaves the terminal's session, gets out of the kernel's way when memory is short, takes orphans in.
///
/// Each is best effort: a keeper without it still keeps.
fn settle() {
    let _ = setsid();
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
    let _ = set_child_subreaper(Some(getpid()));
    let _ = rustix::thread::set_name(c"larder-keeper");
    raise_descriptor_limit();
}

/// Raises the soft limit of open descriptors as far as it goes; returns the number that holds from now on.
pub(crate) fn raise_descriptor_limit() -> u64 {
    let now = getrlimit(Resource::Nofile);
    let wanted = now.maximum.unwrap_or(DESCRIPTORS_MAX).min(DESCRIPTORS_MAX);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: now.maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(DESCRIPTORS_MAX)
}

/// Undoes in the worker what the keeper has arranged for itself alone.
pub(super) fn settle_worker() {
    if std::fs::read_to_string("/proc/self/oom_score_adj").is_ok_and(|score| score.trim() == "-1000") {
        let _ = std::fs::write("/proc/self/oom_score_adj", "0");
    }
    raise_descriptor_limit();
}
