//! What the keeper does when the worker has ended: a pure decision.

use std::fmt;
use std::time::Duration;

/// A worker that ran this long counts as healthy: the next one starts at once.
const HEALTHY: Duration = Duration::from_secs(10);
/// So does one that got as far as serving and ran this long: its readers' wait is dearer than another start.
const HEALTHY_READY: Duration = Duration::from_millis(500);
/// The status of a worker that makes way for another: EX_TEMPFAIL of sysexits.h.
const MAKES_WAY: Exit = Exit::Status(75);
const DELAY_MIN: Duration = Duration::from_millis(100);
const DELAY_MAX: Duration = Duration::from_secs(5);
/// How often a worker that dies while it is told to stop is started again to finish its work; and then a stand-in.
const STOP_ATTEMPTS_MAX: u32 = 5;
/// After so many deaths in a row without a healthy run a stand-in gives readers errors: after 6 s of delays.
const GIVE_UP_AFTER: u32 = 8;
/// How long the first stand-in stands in; twice as long each further one, up to the last figure.
const STAND_IN_MIN: Duration = Duration::from_secs(10);
const STAND_IN_MAX: Duration = Duration::from_secs(60);

/// How the worker ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Exit {
    /// With this status.
    Status(i32),
    /// By this signal.
    Signal(i32),
    /// In a way that the keeper cannot see: an adopted worker is not its child.
    Unseen,
    /// It could not be started.
    Never,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "with status {status}"),
            Self::Signal(signal) => write!(f, "by signal {signal}"),
            Self::Unseen => f.write_str("in a way that nobody saw"),
            Self::Never => f.write_str("before it began: its program cannot be started"),
        }
    }
}

/// What comes next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Next {
    /// The keeper's work is done.
    Leave,
    /// Start the worker again after this long.
    Restart(Duration),
    /// Start who gives every reader an error, for so long: the worker does not get anywhere.
    StandIn(Duration),
}

/// What the keeper knows when the worker has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) exit: Exit,
    /// How long it ran.
    pub(super) ran: Duration,
    /// It had taken up what was kept, and served.
    pub(super) was_ready: bool,
    /// It had said that it stops.
    pub(super) said_stop: bool,
    /// The keeper was asked to stop.
    pub(super) told_to_stop: bool,
    /// Whether any descriptor is kept: what a mount may depend on.
    pub(super) keeps: bool,
    /// It was a stand-in.
    pub(super) stood_in: bool,
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
    /// The first restart comes at once, later ones after 100 ms, 200 ms, ... 5 s, until a worker has lived for 10 s,
    /// or was ready and has lived for half a second. One that makes way is no crash. One that ends cleanly is the last, if it
    /// has said so or nothing is kept.
    /// A worker that dies on the way to a clean stop is started again while anything is kept: closing a group
    /// under a mount would let its readers read zeros. When that leads nowhere, in a stop as in a crash loop, a stand-in
    /// follows; after it the worker has one more try, and the next stand-in follows that at once. The keeper itself never
    /// leaves while anything is kept.
    pub(super) fn next(&mut self, ended: Ended) -> Next {
        if ended.said_stop || (ended.exit == Exit::Status(0) && !ended.keeps) {
            return Next::Leave;
        }
        if ended.told_to_stop {
            self.stop_attempts = self.stop_attempts.saturating_add(1);
            if !ended.keeps {
                return Next::Leave;
            }
            // A stand-in that cannot even detach is followed by a worker, which may; the delays keep both from spinning.
            if self.stop_attempts > STOP_ATTEMPTS_MAX && !ended.stood_in {
                return Next::StandIn(STAND_IN_MAX);
            }
        }
        if ended.stood_in {
            return Next::Restart(if ended.exit == MAKES_WAY { Duration::ZERO } else { DELAY_MAX });
        }
        let healthy = if ended.was_ready { HEALTHY_READY } else { HEALTHY };
        if ended.ran >= healthy || ended.exit == MAKES_WAY {
            self.crashes = 0;
        }
        let delay = match self.crashes {
            0 => Duration::ZERO,
            n => DELAY_MIN.saturating_mul(1 << (n - 1).min(16)).min(DELAY_MAX),
        };
        self.crashes = self.crashes.saturating_add(1);
        match self.crashes.checked_sub(GIVE_UP_AFTER).filter(|_| ended.keeps) {
            Some(n) => Next::StandIn(STAND_IN_MIN.saturating_mul(1 << n.min(16)).min(STAND_IN_MAX)),
            None => Next::Restart(delay),
        }
    }

    /// Deaths since a worker was healthy.
    pub(super) fn crashes(&self) -> u32 {
        self.crashes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crash() -> Ended {
        let ran = Duration::from_millis(5);
        Ended {
            exit: Exit::Signal(9),
            ran,
            was_ready: false,
            said_stop: false,
            told_to_stop: false,
            keeps: true,
            stood_in: false,
        }
    }

    #[test]
    fn a_crash_loop_backs_off_from_nothing_to_five_seconds_and_a_healthy_run_resets_it() {
        let mut backoff = Backoff::default();
        // With nothing kept nobody waits for anything.
        let delays: Vec<_> = (0..9).map(|_| backoff.next(Ended { keeps: false, ..crash() })).collect();
        let expected = [0, 100, 200, 400, 800, 1600, 3200, 5000, 5000];
        assert_eq!(delays, expected.map(|ms| Next::Restart(Duration::from_millis(ms))));
        let healthy = Ended { ran: HEALTHY, ..crash() };
        assert_eq!(backoff.next(healthy), Next::Restart(Duration::ZERO));
        let served = Ended { ran: HEALTHY_READY, was_ready: true, ..crash() };
        for gentle in [served, Ended { exit: MAKES_WAY, ..crash() }] {
            for _ in 0..9 {
                assert_eq!(backoff.next(gentle), Next::Restart(Duration::ZERO), "{gentle:?}");
            }
        }
        let unready = Ended { was_ready: false, ..served };
        assert_ne!(backoff.next(unready), Next::Restart(Duration::ZERO));
    }

    #[test]
    fn a_clean_end_is_the_end_unless_something_is_kept_that_nobody_said_to_close() {
        let mut backoff = Backoff::default();
        let clean = Ended { exit: Exit::Status(0), keeps: false, ..crash() };
        assert_eq!(backoff.next(clean), Next::Leave);
        assert_eq!(backoff.next(Ended { keeps: true, ..clean }), Next::Restart(Duration::ZERO));
        let mut backoff = Backoff::default();
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
        let stand_in = Ended { stood_in: true, ..stopping };
        for _ in 0..100 {
            assert!(matches!(backoff.next(stopping), Next::StandIn(_)), "who detaches what is mounted");
            assert_eq!(
                backoff.next(stand_in),
                Next::Restart(DELAY_MAX),
                "who may detach what a stand-in could not"
            );
        }
        assert_eq!(backoff.next(Ended { keeps: false, ..stopping }), Next::Leave);
    }

    #[test]
    fn after_eight_deaths_in_a_row_a_stand_in_follows_and_after_it_one_try_at_a_time() {
        let mut backoff = Backoff::default();
        for _ in 1..GIVE_UP_AFTER {
            assert!(matches!(backoff.next(crash()), Next::Restart(_)));
        }
        let stand_in_for = |seconds| Next::StandIn(Duration::from_secs(seconds));
        assert_eq!(backoff.next(crash()), stand_in_for(10));
        let stand_in = Ended { stood_in: true, was_ready: true, ran: HEALTHY, ..crash() };
        for seconds in [20, 40, 60, 60] {
            let made_way = Ended { exit: MAKES_WAY, ..stand_in };
            assert_eq!(backoff.next(made_way), Next::Restart(Duration::ZERO));
            assert_eq!(
                backoff.next(crash()),
                stand_in_for(seconds),
                "readers wait for one try, not for eight"
            );
        }
        assert_eq!(backoff.next(stand_in), Next::Restart(DELAY_MAX), "one that dies, too, does not spin");
        assert_eq!(backoff.next(crash()), stand_in_for(60));
        assert_eq!(backoff.next(Ended { ran: HEALTHY, ..crash() }), Next::Restart(Duration::ZERO));
        assert_eq!(backoff.crashes(), 1, "a healthy run ends the row");
    }
}
