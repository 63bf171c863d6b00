//! [`Signals`]: what the keeper passes on to whoever serves.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

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
