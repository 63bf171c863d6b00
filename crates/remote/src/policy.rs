//! [`Policy`]: how long to wait and how often to try.

use std::time::Duration;

/// A request may take one second more than [`Policy::deadline`] for each so many bytes asked for.
const SLOWEST_BYTES_PER_SECOND: u64 = 64 * 1024;

/// How long a read may take and how often it is tried. One policy holds for all requests of a client.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Longest wait for a connection, TLS included.
    pub connect_timeout: Duration,
    /// Longest wait without a single byte of progress.
    pub read_timeout: Duration,
    /// Longest time for a read with all its tries and pauses; large reads get more, see
    /// [`Policy::deadline_for`].
    pub deadline: Duration,
    /// Tries in all; zero counts as one.
    pub attempts: u32,
    /// Longest pause after the first failure; it doubles with each further one.
    pub backoff_base: Duration,
    /// Longest pause after any failure, `Retry-After` apart.
    pub backoff_cap: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(10),
            deadline: Duration::from_secs(60),
            attempts: 6,
            backoff_base: Duration::from_millis(100),
            backoff_cap: Duration::from_secs(5),
        }
    }
}

impl Policy {
    /// Returns the longest time that a read of `bytes` may take in all.
    ///
    /// A slow link that makes progress is no failure: each 64 KiB asked for adds a second to the deadline.
    pub fn deadline_for(&self, bytes: u64) -> Duration {
        self.deadline.saturating_add(Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND))
    }

    /// Returns the pause before the next try, after `failures` failures (at least one).
    ///
    /// Full jitter: `random` in `0.0..1.0` chooses within `0..min(cap, base * 2^(failures - 1))`. When the server
    /// named a pause, that is the least, and the jitter of one base keeps its clients from returning as one.
    pub(crate) fn pause(&self, failures: u32, retry_after: Option<Duration>, random: f64) -> Duration {
        let random = random.clamp(0.0, 1.0);
        if let Some(named) = retry_after {
            return named.saturating_add(self.backoff_base.mul_f64(random));
        }
        let doubled = 2u32.saturating_pow(failures.saturating_sub(1));
        self.backoff_base.saturating_mul(doubled).min(self.backoff_cap).mul_f64(random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn the_pause_doubles_up_to_the_cap_and_is_fully_jittered() {
        let policy = Policy { backoff_base: MS(100), backoff_cap: MS(1000), ..Policy::default() };
        for (failures, random, expected) in [
            (1, 1.0, MS(100)),
            (2, 1.0, MS(200)),
            (4, 1.0, MS(800)),
            (5, 1.0, MS(1000)),
            (u32::MAX, 1.0, MS(1000)),
            (4, 0.5, MS(400)),
            (4, 0.0, MS(0)),
        ] {
            assert_eq!(policy.pause(failures, None, random), expected, "{failures} failures, {random}");
        }
    }

    #[test]
    fn a_pause_named_by_the_server_is_never_shortened() {
        let policy = Policy { backoff_base: MS(100), backoff_cap: MS(1000), ..Policy::default() };
        assert_eq!(policy.pause(1, Some(MS(3000)), 0.0), MS(3000));
        assert_eq!(policy.pause(9, Some(MS(3000)), 1.0), MS(3100));
        assert_eq!(policy.pause(1, Some(Duration::MAX), 1.0), Duration::MAX);
    }

    #[test]
    fn large_reads_get_more_time() {
        let policy = Policy { deadline: MS(1000), ..Policy::default() };
        assert_eq!(policy.deadline_for(4096), MS(1000));
        assert_eq!(policy.deadline_for(1024 * 1024), MS(17_000));
        assert!(policy.deadline_for(u64::MAX) > MS(1000), "no overflow");
    }
}
