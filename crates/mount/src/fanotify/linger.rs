//! [`Linger`]: whether the next question is worth a moment of looking before the thread goes to sleep.

use std::time::{Duration, Instant};

/// A question that came this soon after the one before belongs to a run.
const RUN: Duration = Duration::from_micros(60);
/// How long a run is looked after.
const MOMENT: Duration = Duration::from_micros(40);

/// Remembers how close together questions come.
///
/// A reader of present bytes asks again a few microseconds after each answer. Waking a sleeping thread costs more than
/// that; so does a thread that looks for ever.
#[derive(Debug)]
pub(super) struct Linger {
    last: Instant,
    in_run: bool,
}

impl Linger {
    pub(super) fn new(now: Instant) -> Self {
        Self { last: now, in_run: false }
    }

    /// Questions have come.
    pub(super) fn asked(&mut self, now: Instant) {
        self.in_run = now.saturating_duration_since(self.last) < RUN;
        self.last = now;
    }

    /// Whether the last question belongs to a run.
    pub(super) fn is_in_run(&self) -> bool {
        self.in_run
    }

    /// Whether to look again instead of going to sleep.
    pub(super) fn goes_on(&self, now: Instant) -> bool {
        self.in_run && now.saturating_duration_since(self.last) < MOMENT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_run_of_questions_is_looked_after_and_only_for_a_moment() {
        let start = Instant::now();
        let at = |us| start + Duration::from_micros(us);
        let mut linger = Linger::new(start);
        linger.asked(at(1000));
        assert!(!linger.goes_on(at(1001)), "one question is no run");
        linger.asked(at(1020));
        assert!(linger.goes_on(at(1030)));
        assert!(!linger.goes_on(at(1060)), "the moment is over");
        linger.asked(at(2000));
        assert!(!linger.goes_on(at(2001)), "the run is over");
    }
}
