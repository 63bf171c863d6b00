//! [`Patience`]: a deadline that does not run while this process stands still.

use std::time::{Duration, Instant};

/// Longer between two looks, the process was stopped or the machine asleep: what it waits for may have been, too.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// A deadline that runs only while somebody looks at it, many times a second.
#[derive(Debug)]
pub struct Patience {
    spent: Duration,
    at_most: Duration,
    looked: Instant,
}

impl Patience {
    /// It is over after so long.
    pub fn new(at_most: Duration) -> Self {
        Self { spent: Duration::ZERO, at_most, looked: Instant::now() }
    }

    /// Looks; tells whether it is over.
    pub fn is_over(&mut self) -> bool {
        self.look();
        self.spent > self.at_most
    }

    /// Looks; returns how much has counted since the last look.
    pub fn look(&mut self) -> Duration {
        let now = Instant::now();
        let counts = now.duration_since(self.looked).min(LOOK_MAX);
        self.looked = now;
        self.spent += counts;
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standstill_counts_as_one_long_look_at_most() {
        let mut patience = Patience::new(Duration::from_secs(90));
        patience.looked = Instant::now().checked_sub(Duration::from_secs(3600)).unwrap_or_else(Instant::now);
        assert!(!patience.is_over());
        let mut short = Patience::new(Duration::from_millis(1));
        std::thread::sleep(Duration::from_millis(2));
        assert!(short.is_over());
    }
}
