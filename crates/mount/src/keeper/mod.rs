//! The keeper: a tiny process that holds what must not be closed, and starts the worker again.
//!
//! Closing the last descriptor of a fanotify group lets every waiting reader read holes as zeros (P1), so the group
//! must outlive any one process. The keeper holds it, and whatever else the worker names: fill descriptors, shared
//! maps, /dev/fuse. It knows nothing of what they are. It has no runtime and no network, and parses one fixed
//! message.
//!
//! ```text
//!   keeper ── starts, watches (pidfd), restarts ──> worker
//!     ^ KEEP name fd, RELEASE name, STOP              │
//!     └────── one SOCK_SEQPACKET socket pair ─────────┘
//!               HAVE name fd ..., END   (once, when a worker starts)
//! ```
//!
//! When the keeper dies the worker starts another one and hands it everything again ([`Client`] does so by itself).

mod backoff;
mod client;
mod main;
mod protocol;
mod store;
mod supervise;

pub use client::{Client, Launch};
pub use main::main;
pub(crate) use main::raise_descriptor_limit;
pub use protocol::NAME_BYTES_MAX;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// The environment variable that tells the worker the number of its keeper socket.
pub const FD_ENV: &str = "LARDER_KEEPER_FD";

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

    /// Returns a copy of what is kept under `name`; it stays kept.
    fn take(&self, name: &str) -> Option<OwnedFd>;

    /// Forgets what is kept under `name`.
    fn release(&self, name: &str);

    /// Names of everything that is kept now; at first, what an earlier worker left.
    fn names(&self) -> Vec<String>;
}

/// Keeps nothing: for one-shot commands and tests, where a crash ends the mount as well.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoKeeper;

impl Holder for NoKeeper {
    fn keep(&self, _: &str, _: BorrowedFd<'_>) -> io::Result<()> {
        Ok(())
    }

    fn take(&self, _: &str) -> Option<OwnedFd> {
        None
    }

    fn release(&self, _: &str) {}

    fn names(&self) -> Vec<String> {
        Vec::new()
    }
}
