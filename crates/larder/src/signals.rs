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

/// The signals that ask a program to end. Once they are caught they do not end it by themselves. One that whoever started it has
/// it ignore, as nohup does, stays ignored.
pub struct Ends {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
    hang_up: Option<Signal>,
}

impl Ends {
    /// Catches them, within a runtime.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn catch() -> anyhow::Result<Self> {
        let ignored = ignored();
        let caught = |kind: SignalKind| {
            let is_ignored = ignored & (1 << (kind.as_raw_value() - 1)) != 0;
            (!is_ignored).then(|| signal(kind)).transpose().context("a signal cannot be caught")
        };
        Ok(Self {
            interrupt: caught(SignalKind::interrupt())?,
            terminate: caught(SignalKind::terminate())?,
            hang_up: caught(SignalKind::hangup())?,
        })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) -> SignalKind {
        tokio::select! {
            () = come(&mut self.interrupt) => SignalKind::interrupt(),
            () = come(&mut self.terminate) => SignalKind::terminate(),
            () = come(&mut self.hang_up) => SignalKind::hangup(),
        }
    }
}

async fn come(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// The signals that this process ignores, a bit each (`SigIgn` of proc(5)).
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Whether a terminal sends Ctrl-C to this process and those that it has started: they are its foreground group (`pgrp` and
/// `tpgid` of proc(5)).
pub fn is_in_foreground() -> bool {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name, in parentheses, may hold anything.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    matches!((fields.get(2), fields.get(5)), (Some(group), Some(foreground)) if group == foreground)
}
