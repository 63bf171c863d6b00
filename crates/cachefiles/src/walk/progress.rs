//! [`Progress`]: how far a walk is, for those who wait for it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::Stretch;

/// How far a walk is.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    stop: AtomicBool,
    found: Mutex<Found>,
    changed: Condvar,
    /// What the last walk could not walk through.
    left: Mutex<Vec<Stretch>>,
}

/// What a walk has found.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Found {
    objects: u64,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Stage {
    #[default]
    UnderWay,
    /// It got to the end: the index has everything.
    Whole,
    /// It left something, or ended before: nobody knows what the index lacks.
    Broken,
}

impl Progress {
    /// There is nothing to walk through.
    pub fn done() -> Self {
        let progress = Self::default();
        progress.end(Stage::Whole);
        progress
    }

    /// Whether the index has everything.
    pub fn is_whole(&self) -> bool {
        self.found().stage == Stage::Whole
    }

    /// Whether a walk is still to find something.
    pub fn is_under_way(&self) -> bool {
        self.found().stage == Stage::UnderWay
    }

    /// There is no walk, though there should be one.
    pub fn give_up(&self) {
        self.end(Stage::Broken);
    }

    /// Begins another walk if the last one has left something, unless none is wanted any more; returns whether it did.
    pub fn begin_again(&self) -> bool {
        let mut found = self.found();
        let begins = found.stage == Stage::Broken && !self.is_stopped();
        if begins {
            found.stage = Stage::UnderWay;
        }
        begins
    }

    /// What is to be walked through: what the last walk has left, or else everything.
    pub fn take_left(&self) -> Vec<Stretch> {
        let left = std::mem::take(&mut *self.left.lock().unwrap_or_else(PoisonError::into_inner));
        if left.is_empty() { vec![Stretch::Volumes, Stretch::Graveyard] } else { left }
    }

    /// Leaves this for the next walk.
    pub fn leave(&self, left: Vec<Stretch>) {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) = left;
    }

    /// The end of a walk that begins now.
    pub fn ending(&self) -> Ending<'_> {
        Ending { progress: self, stage: Stage::Broken }
    }

    /// Asks the walk to end early.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Waits until the walk has found something more, or has ended; returns whether it was under way.
    pub fn wait(&self) -> bool {
        let found = self.found();
        let before = *found;
        if before.stage != Stage::UnderWay {
            return false;
        }
        drop(self.changed.wait_while(found, |found| *found == before));
        true
    }

    /// Whether the walk is asked to end.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    pub fn add(&self, objects: u64) {
        self.found().objects += objects;
        self.changed.notify_all();
    }

    fn end(&self, stage: Stage) {
        self.found().stage = stage;
        self.changed.notify_all();
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the progress when the walk ends, however that is: nobody must wait for a walk that is not there.
pub(crate) struct Ending<'a> {
    progress: &'a Progress,
    stage: Stage,
}

impl Ending<'_> {
    /// The walk has got to its end, and nothing is left.
    pub fn whole(mut self) {
        self.stage = Stage::Whole;
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.progress.end(self.stage);
    }
}
