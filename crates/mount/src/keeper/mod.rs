//! The keeper: a tiny process that holds what must not be closed, and starts the worker again.
//!
//! Closing the last descriptor of a fanotify group lets every waiting reader read holes as zeros (P1), so the group
//! must outlive any one process. The keeper holds it, and whatever else the worker names: fill descriptors, shared
//! maps, /dev/fuse. It knows nothing of what they are. It has no runtime and no network, and parses one fixed
//! message.
//!
//! ```text
//!   keeper ── starts, watches (pidfd), restarts ──> worker
//!     ^ READY, KEEP name fd, RELEASE name, PROGRAM fd, STOP
//!     │                                               │
//!     └────── one SOCK_SEQPACKET socket pair ─────────┘
//!               HAVE name fd ..., END   (once, when a worker starts)
//! ```
//!
//! When the keeper dies the worker starts another one and hands it everything again ([`Client`] does so by itself).
//! After [`Client::set_program`] the next worker is another program; one that does not get as far as READY is followed
//! by the program before.
//!
//! Workers that die one after the other, none of them healthy for a while, would have their readers wait for ever. So the
//! keeper starts its own program with [`STAND_IN_ENV`] in the environment: it takes up what is kept, gives every reader an
//! error, and makes way for the worker again, when it is told to or by the clock, after a minute at the latest.

#![deny(clippy::print_stdout, clippy::print_stderr, reason = "they panic where nobody can write: see say.rs")]

mod backoff;
mod client;
mod command_line;
mod main;
mod manager;
mod protocol;
mod say;
mod store;
mod supervise;

pub use client::{Client, Launch};
pub use main::main;
pub(crate) use main::raise_descriptor_limit;
pub use manager::watchdog_interval;
pub use protocol::{NAME_BYTES_MAX, PROTOCOL_VERSION};
pub use supervise::start_limit;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// The environment variable with the interval in which a service manager wants a sign of life, in microseconds:
/// sd_watchdog_enabled(3). Workers have it too, and are [`alive`](Client::alive) several times in each.
pub const WATCHDOG_ENV: &str = "WATCHDOG_USEC";

/// The environment variable that tells the worker the number of its keeper socket.
pub const FD_ENV: &str = "LARDER_KEEPER_FD";

/// The environment variable with which the keeper starts somebody who stands in for a worker that does not get anywhere.
/// It has a worker's command line, gives every reader an error, and ends with EX_TEMPFAIL (75) to make way, upon SIGHUP at
/// the latest. The value says why, in words.
pub const STAND_IN_ENV: &str = "LARDER_STAND_IN";

/// Says for how many whole seconds a worker that does not serve yet may say nothing before the keeper ends it; 180 without
/// it, and where it is no number: [`start_limit`] tells.
pub const START_LIMIT_ENV: &str = "LARDER_START_LIMIT";

/// What the keeper says of every worker that it starts another one for, before it says how that one ended.
pub const WORKER_ENDED: &str = "the worker ended";

/// The program of this process, also when its file has been replaced or removed since: it works, whatever lies there now.
pub const OWN_PROGRAM: &str = "/proc/self/exe";

/// Somebody who keeps descriptors open beyond the life of this process.
///
/// Names are 1 to [`NAME_BYTES_MAX`] bytes.
pub trait Holder: Send + Sync {
    /// Keeps a copy of `fd` under `name`, in place of what was kept there.
    ///
    /// # Errors
    ///
    /// When the name is not valid or no copy can be made. A keeper that is away is no error: it gets everything
    /// once it is back.
    fn keep(&self, name: &str, fd: BorrowedFd<'_>) -> io::Result<()>;

    /// Returns a copy of what is kept under `name`, `None` if that is nothing; it stays kept.
    ///
    /// # Errors
    ///
    /// When something is kept, and no copy can be made.
    fn take(&self, name: &str) -> io::Result<Option<OwnedFd>>;

    /// Forgets what is kept under `name`.
    fn release(&self, name: &str);

    /// Names of everything that is kept now; at first, what an earlier worker left.
    fn names(&self) -> Vec<String>;
}

/// What follows `prefix` in the names of what is kept.
pub(crate) fn ids_below(holder: &dyn Holder, prefix: &str) -> Vec<String> {
    let names = holder.names();
    names.iter().filter_map(|name| name.strip_prefix(prefix).map(str::to_owned)).collect()
}

/// Keeps nothing: for one-shot commands and tests, where a crash ends the mount as well.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoKeeper;

impl Holder for NoKeeper {
    fn keep(&self, _: &str, _: BorrowedFd<'_>) -> io::Result<()> {
        Ok(())
    }

    fn take(&self, _: &str) -> io::Result<Option<OwnedFd>> {
        Ok(None)
    }

    fn release(&self, _: &str) {}

    fn names(&self) -> Vec<String> {
        Vec::new()
    }
}
