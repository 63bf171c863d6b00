//! Ctrl-C and its like: what a command has put on this machine goes away, then the program ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::runtime;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on SIGINT, SIGTERM and SIGHUP have `clear` called, on a thread of its own, and end the program with 128 and the
/// signal's number.
///
/// # Errors
///
/// When no thread can be started or no signal be caught.
pub fn clear_when_ended(clear: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    let runtime = runtime::for_command()?;
    let mut ends = {
        let _inside = runtime.enter();
        Ends::catch()?
    };
    let wait = move || {
        let number = runtime.block_on(ends.next()).as_raw_value();
        INTERRUPTED.store(true, Ordering::SeqCst);
        clear();
        std::process::exit(128 + number);
    };
    thread::Builder::new().name("signals".to_owned()).spawn(wait).context("a thread cannot be started")?;
    Ok(())
}

/// After a signal the program ends elsewhere: nothing that fails because of it is worth a word.
pub fn stay_if_interrupted() {
    while INTERRUPTED.load(Ordering::SeqCst) {
        thread::park();
    }
}

/// The signals that ask a program to end. Once they are caught they do not end it by themselves.
pub struct Ends {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Ends {
    /// Catches them, within a runtime.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn catch() -> anyhow::Result<Self> {
        let caught = |kind| signal(kind).context("a signal cannot be caught");
        Ok(Self {
            interrupt: caught(SignalKind::interrupt())?,
            terminate: caught(SignalKind::terminate())?,
            hang_up: caught(SignalKind::hangup())?,
        })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) -> SignalKind {
        tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.hang_up.recv() => SignalKind::hangup(),
        }
    }
}
