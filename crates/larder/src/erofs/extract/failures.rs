//! [`Failures`]: what could not be extracted; the rest goes on.

use std::sync::{Mutex, PoisonError};

/// Failures that are kept in words; further ones are counted.
const NAMED_MAX: usize = 1000;

/// What went wrong, from all threads.
#[derive(Debug, Default)]
pub struct Failures(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    named: Vec<String>,
    count: u64,
}

impl Failures {
    /// Adds what went wrong with `path`.
    pub fn add(&self, path: &[u8], error: impl std::fmt::Display) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.count += 1;
        if state.named.len() < NAMED_MAX {
            state.named.push(format!("{}: {error}", String::from_utf8_lossy(path)));
        }
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).count
    }

    /// The first of them in words, sorted.
    pub fn named(&self) -> Vec<String> {
        let mut named = self.0.lock().unwrap_or_else(PoisonError::into_inner).named.clone();
        named.sort_unstable();
        named
    }
}
