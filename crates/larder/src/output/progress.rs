//! A progress bar on standard error: on a terminal only, and only for work of more than a second.

use std::io::{IsTerminal as _, stderr};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Work shorter than this shows no bar.
const QUIET: Duration = Duration::from_secs(1);

/// A bar that appears once the work has taken a second.
pub struct Progress {
    started: Instant,
    what: String,
    total: Option<u64>,
    wanted: bool,
    bar: Mutex<Option<ProgressBar>>,
}

impl Progress {
    /// Work called `what` on `total` bytes, when that is known.
    pub fn bytes(what: impl Into<String>, total: Option<u64>) -> Self {
        Self { started: Instant::now(), what: what.into(), total, wanted: wanted(), bar: Mutex::new(None) }
    }

    /// Says that `done` bytes are done, all told.
    pub fn set(&self, done: u64) {
        if !self.wanted || self.started.elapsed() < QUIET {
            return;
        }
        if let Ok(mut bar) = self.bar.lock() {
            bar.get_or_insert_with(|| draw(&self.what, self.total)).set_position(done);
        }
    }
}

impl Progress {
    /// Takes the bar away.
    pub fn clear(&self) {
        if let Ok(Some(bar)) = self.bar.lock().map(|mut bar| bar.take()) {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Whether someone is watching who can see a bar move.
fn wanted() -> bool {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    stderr().is_terminal() && !dumb
}

fn draw(what: &str, total: Option<u64>) -> ProgressBar {
    let (bar, shape) = match total {
        Some(total) => (
            ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr()),
            "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} eta {eta}",
        ),
        None => (
            ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()),
            "{msg} {spinner} {bytes} {bytes_per_sec}",
        ),
    };
    if let Ok(style) = ProgressStyle::with_template(shape) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(what.to_owned());
    bar
}
