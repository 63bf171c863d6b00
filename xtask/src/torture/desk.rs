//! [`Desk`]: where readers sign in before a read and out after it, so that one that hangs is seen.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::patience::Patience;
use super::tally::Tally;
use super::violation::{Kind, Violation};

/// Between two looks at the readers.
const LOOK: Duration = Duration::from_millis(2);

/// What readers of one round share with whoever watches them.
pub struct Desk {
    /// Milliseconds that somebody has watched: the clock of the readers' deadlines.
    watched: AtomicU64,
    slots: Vec<Slot>,
    steps: AtomicU64,
    stop: AtomicBool,
    tally: Mutex<Tally>,
}

/// One reader.
#[derive(Default)]
struct Slot {
    /// When the read under way began, by the desk's clock, plus one; 0 between reads.
    since: AtomicU64,
    thread: AtomicU64,
    doing: Mutex<String>,
}

impl Desk {
    /// A desk for so many readers.
    pub fn new(readers: usize) -> Arc<Self> {
        Arc::new(Self {
            watched: AtomicU64::new(0),
            slots: (0..readers).map(|_| Slot::default()).collect(),
            steps: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            tally: Mutex::default(),
        })
    }

    /// Does something that must end before the deadline, which the watcher keeps.
    pub fn timed<T>(&self, reader: usize, doing: impl FnOnce() -> String, work: impl FnOnce() -> T) -> T {
        let slot = &self.slots[reader];
        *slot.doing.lock().unwrap_or_else(PoisonError::into_inner) = doing();
        slot.thread.store(rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs().into(), Relaxed);
        slot.since.store(self.now_ms() + 1, Relaxed);
        let done = work();
        slot.since.store(0, Relaxed);
        self.steps.fetch_add(1, Relaxed);
        done
    }

    /// Steps that all readers together have done.
    pub fn steps(&self) -> u64 {
        self.steps.load(Relaxed)
    }

    /// Tells the readers to end early.
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    /// Whether readers are to end early.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// What the readers have found.
    pub fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `readers` have ended or all have done `steps` together.
    ///
    /// # Errors
    ///
    /// The reader that has been at one step for longer than `deadline`.
    pub fn wait(&self, readers: &[JoinHandle<()>], steps: u64, deadline: Duration) -> Result<(), Violation> {
        let mut patience = Patience::new(deadline);
        let mut watched = Duration::from_millis(self.now_ms());
        while self.steps() < steps && readers.iter().any(|reader| !reader.is_finished()) {
            if let Some(late) = self.late(deadline) {
                return Err(late);
            }
            std::thread::sleep(LOOK);
            watched += patience.look();
            self.watched.store(u64::try_from(watched.as_millis()).unwrap_or(u64::MAX - 1), Relaxed);
        }
        Ok(())
    }

    fn late(&self, deadline: Duration) -> Option<Violation> {
        let now = self.now_ms();
        let is_late = |slot: &&Slot| {
            let since = slot.since.load(Relaxed);
            since != 0 && u128::from(now.saturating_sub(since)) > deadline.as_millis()
        };
        let slot = self.slots.iter().find(is_late)?;
        let thread = slot.thread.load(Relaxed);
        let stack = std::fs::read_to_string(format!("/proc/{thread}/stack")).unwrap_or_default();
        let doing = slot.doing.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Some(Violation::new(Kind::Hang, format!("{doing}: not done after {deadline:?}; it is in\n{stack}")))
    }

    fn now_ms(&self) -> u64 {
        self.watched.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_does_not_end_is_reported_with_what_it_does() {
        let desk = Desk::new(1);
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let reader = std::thread::spawn({
            let desk = Arc::clone(&desk);
            move || assert!(desk.timed(0, || "the read".into(), || wait.recv().is_err()))
        });
        let readers = [reader];
        let late = desk.wait(&readers, u64::MAX, Duration::from_millis(5)).expect_err("it hangs");
        assert!(late.kind == Kind::Hang && late.what.contains("the read"), "{late}");
        drop(release);
        desk.wait(&readers, u64::MAX, Duration::from_secs(60)).expect("it ends");
        assert_eq!(desk.steps(), 1);
    }
}
