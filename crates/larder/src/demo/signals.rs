//! Ctrl-C: what the demo has put on this machine goes away, then the program ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::scratch::Scratch;
use crate::output;
use crate::runtime;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on SIGINT, SIGTERM and SIGHUP clear `scratch` and end the program with 128 and the signal's number.
///
/// # Errors
///
/// When no thread can be started or no signal be caught.
pub fn clear_on_signal(scratch: &Scratch) -> anyhow::Result<()> {
    let scratch = scratch.clone();
    let runtime = runtime::for_command()?;
    let caught = |kind| {
        let _inside = runtime.enter();
        signal(kind).context("a signal cannot be caught")
    };
    let mut interrupt = caught(SignalKind::interrupt())?;
    let mut terminate = caught(SignalKind::terminate())?;
    let mut hang_up = caught(SignalKind::hangup())?;
    let wait = move || {
        let number = runtime.block_on(first(&mut interrupt, &mut terminate, &mut hang_up));
        INTERRUPTED.store(true, Ordering::SeqCst);
        output::note("interrupted: cleaning up");
        if let Err(error) = scratch.clear() {
            output::note(format!("warning: {error:#}"));
        }
        std::process::exit(128 + number);
    };
    thread::Builder::new().name("signals".to_owned()).spawn(wait).context("a thread cannot be started")?;
    Ok(())
}

async fn first(interrupt: &mut Signal, terminate: &mut Signal, hang_up: &mut Signal) -> i32 {
    tokio::select! {
        _ = interrupt.recv() => SignalKind::interrupt().as_raw_value(),
        _ = terminate.recv() => SignalKind::terminate().as_raw_value(),
        _ = hang_up.recv() => SignalKind::hangup().as_raw_value(),
    }
}

/// After a signal the program ends elsewhere: nothing that fails because of it is worth a word.
pub fn stay_if_interrupted() {
    while INTERRUPTED.load(Ordering::SeqCst) {
        thread::park();
    }
}
