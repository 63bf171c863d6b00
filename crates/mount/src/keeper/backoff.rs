//! What the keeper does when the worker has ended: a pure decision.

use std::time::Duration;

/// A worker that ran this long counts as healthy: the next one starts at once.
const HEALTHY: Duration = Duration::from_secs(10);
const DELAY_MIN: Duration = Duration::from_millis(100);
const DELAY_MAX: Duration = Duration::from_secs(5);
/// How often a worker that dies while it is told to stop is started again to finish its work.
const STOP_ATTEMPTS_MAX: u32 = 5;

/// How the worker ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Exit {
    /// With this status.
    Status(i32),
    /// By a signal, or in a way that the keeper cannot see (an adopted worker is not its child).
    Killed,
}

/// What comes next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Next {
    /// The keeper's work is done.
    Leave,
    /// Start the worker again after this long.
    Restart(Duration),
}

/// What the keeper knows when the worker has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) exit: Exit,
    /// How long it ran.
    pub(super) ran: Duration,
    /// It had said that it stops.
    pub(super) said_stop: bool,
    /// The keeper was asked to stop.
    pub(super) told_to_stop: bool,
    /// Whether any descriptor is kept: what a mount may depend on.
    pub(super) keeps: bool,
}

/// The delays of a crash loop.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    crashes: u32,
    stop_attempts: u32,
}

impl Backoff {
    /// Decides what follows the end of a worker.
    ///
    /// The first restart comes at once, later ones after 100 ms, 200 ms, ... 5 s, until a worker has lived for 10 s.
    /// A worker that dies on the way to a clean stop is started again while anything is kept: closing a group
    /// under a mount would let its readers read zeros.
    pub(super) fn next(&mut self, ended: Ended) -> Next {
        if ended.said_stop || ended.exit == Exit::Status(0) {
            return Next::Leave;
        }
        if ended.told_to_stop {
            self.stop_attempts += 1;
            if !ended.keeps || self.stop_attempts > STOP_ATTEMPTS_MAX {
                return Next::Leave;
            }
        }
        if ended.ran >= HEALTHY {
            self.crashes = 0;
        }
        let delay = match self.crashes {
            0 => Duration::ZERO,
            n => DELAY_MIN.saturating_mul(1 << (n - 1).min(16)).min(DELAY_MAX),
        };
        self.crashes = self.crashes.saturating_add(1);
        Next::Restart(delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crash() -> Ended {
        let ran = Duration::from_millis(5);
        Ended { exit: Exit::Killed, ran, said_stop: false, told_to_stop: false, keeps: true }
    }

    #[test]
    fn a_crash_loop_backs_off_from_nothing_to_five_seconds_and_a_healthy_run_resets_it() {
        let mut backoff = Backoff::default();
        let delays: Vec<_> = (0..9).map(|_| backoff.next(crash())).collect();
        let expected = [0, 100, 200, 400, 800, 1600, 3200, 5000, 5000];
        assert_eq!(delays, expected.map(|ms| Next::Restart(Duration::from_millis(ms))));
        let healthy = Ended { ran: HEALTHY, ..crash() };
        assert_eq!(backoff.next(healthy), Next::Restart(Duration::ZERO));
    }

    #[test]
    fn a_clean_end_is_the_end() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next(Ended { exit: Exit::Status(0), ..crash() }), Next::Leave);
        assert_eq!(backoff.next(Ended { said_stop: true, ..crash() }), Next::Leave);
        assert_eq!(backoff.next(Ended { exit: Exit::Status(1), ..crash() }), Next::Restart(Duration::ZERO));
    }

    #[test]
    fn p1_a_worker_that_dies_while_stopping_is_started_again_as_long_as_something_is_kept() {
        let mut backoff = Backoff::default();
        let stopping = Ended { told_to_stop: true, ..crash() };
        for _ in 0..STOP_ATTEMPTS_MAX {
            assert!(matches!(backoff.next(stopping), Next::Restart(_)));
        }
        assert_eq!(backoff.next(stopping), Next::Leave);
        assert_eq!(Backoff::default().next(Ended { keeps: false, ..stopping }), Next::Leave);
    }
}
