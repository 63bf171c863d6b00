//! [`Complaints`]: what goes wrong again and again, said at once and then less and less often.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// After what was said: until the same is said again. It doubles each time, up to the last figure.
const PAUSE_MIN: Duration = Duration::from_secs(60);
const PAUSE_MAX: Duration = Duration::from_secs(960);

/// What was said, by what it was about.
#[derive(Debug, Default)]
pub struct Complaints {
    said: Mutex<BTreeMap<String, Said>>,
}

#[derive(Debug)]
struct Said {
    reason: String,
    at: Instant,
    pause: Duration,
}

impl Complaints {
    /// Whether it is to be said that `about` has failed for `reason`: the first time, whenever the reason is another one, and
    /// at most once a minute when it is the same.
    pub fn are_due(&self, about: &str, reason: &str) -> bool {
        self.are_due_at(Instant::now(), about, reason)
    }

    fn are_due_at(&self, now: Instant, about: &str, reason: &str) -> bool {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let age = |said: &Said| now.saturating_duration_since(said.at);
        // What has not been tried for long is news again, and takes no memory.
        said.retain(|_, said| age(said) < 2 * PAUSE_MAX);
        let pause = match said.get(about).filter(|said| said.reason == reason) {
            Some(said) if age(said) < said.pause => return false,
            Some(said) => (said.pause * 2).min(PAUSE_MAX),
            None => PAUSE_MIN,
        };
        said.insert(about.to_owned(), Said { reason: reason.to_owned(), at: now, pause });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_said_less_and_less_often_and_another_reason_at_once() {
        let (complaints, begun) = (Complaints::default(), Instant::now());
        let due = |second: u64, about: &str, reason: &str| {
            complaints.are_due_at(begun + Duration::from_secs(second), about, reason)
        };
        let said: Vec<u64> = (0..3600).filter(|second| due(*second, "stop", "busy")).collect();
        assert_eq!(said, [0, 60, 180, 420, 900, 1860, 2820]);
        assert!(due(3601, "stop", "covered") && !due(3602, "stop", "covered"));
        assert!(due(3603, "stop", "busy"), "it was another one meanwhile");
        assert!(due(3604, "/mnt", "busy") && !due(3605, "stop", "busy"), "each has its own");
        assert!(due(3603 + 1920, "stop", "busy") && !due(3603 + 1979, "stop", "busy"), "forgotten");
    }
}
