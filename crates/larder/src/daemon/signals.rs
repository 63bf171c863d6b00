//! [`Signals`]: what the keeper passes on to whoever serves.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::complaints::Complaints;

/// Between two tries to do what a signal asks for: the service manager says it once, and then waits.
pub(super) const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Whether a stop that a signal asks for has failed; says why the daemon is still there.
pub(super) fn is_to_be_tried_again(complaints: &Complaints, stopped: anyhow::Result<()>) -> bool {
    let Err(error) = stopped else { return false };
    let reason = format!("{error:#}");
    if complaints.are_due("stop", &reason) {
        tracing::error!("cannot stop yet, and tries again every {TRY_AGAIN:?}: {reason}");
    }
    true
}

/// What the keeper passes on.
pub(super) struct Signals {
    /// The service manager wants an end.
    pub terminate: Signal,
    /// So does somebody at a terminal.
    pub interrupt: Signal,
    /// The next worker is to take over.
    pub replace: Signal,
}

impl Signals {
    /// From here on none of them ends this process. Before the keeper hears READY: it passes on at once what has come before.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            replace: signal(SignalKind::hangup())?,
        })
    }
}
