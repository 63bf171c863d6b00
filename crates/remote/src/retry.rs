//! The one retry loop: everything that goes over the network passes through it.

use std::future::Future;

use tokio::time::{Instant, sleep, timeout_at};
use tracing::debug;

use crate::{Error, Meter, Policy, ask::Ask};

/// Calls `attempt` until it succeeds, fails for good, or the policy's attempts or deadline are used up.
///
/// A pause that would end beyond the deadline is not begun: the last error goes back at once, so that no reader is
/// held for nothing. Dropping the future gives up.
pub(crate) async fn with_retries<T, Attempt, Answer>(
    policy: &Policy,
    meter: &Meter,
    ask: &Ask,
    mut attempt: Attempt,
) -> Result<T, Error>
where
    Attempt: FnMut() -> Answer,
    Answer: Future<Output = Result<T, Error>>,
{
    let allowed = policy.deadline_for(ask.bytes);
    let deadline = Instant::now() + allowed;
    let mut failures = 0;
    loop {
        let outcome = timeout_at(deadline, attempt()).await;
        let error = match outcome {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => error,
            Err(_) => ask.timeout(allowed),
        };
        meter.count_error();
        failures += 1;
        let pause = policy.pause(failures, error.retry_after(), fastrand::f64());
        let left = deadline.saturating_duration_since(Instant::now());
        if !error.is_transient() || failures >= policy.attempts || pause >= left {
            return Err(error);
        }
        meter.count_retry();
        debug!(place = ask.place, range = ask.what, failures, ?pause, %error, "request failed, trying again");
        sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, time::Duration};

    use super::*;

    fn ask() -> Ask {
        Ask { place: "here".into(), what: "bytes 0..1".into(), bytes: 1 }
    }

    fn policy() -> Policy {
        Policy { attempts: 4, deadline: Duration::from_secs(30), ..Policy::default() }
    }

    /// Answers with the statuses in turn; 200 stands for success. Returns result, tries and time taken.
    async fn run(
        policy: &Policy,
        statuses: &[u16],
        retry_after: Option<Duration>,
    ) -> (Result<(), Error>, usize, Duration) {
        let (tries, started, meter) = (Cell::new(0), Instant::now(), Meter::default());
        let result = with_retries(policy, &meter, &ask(), || {
            let status = statuses[tries.get().min(statuses.len() - 1)];
            tries.set(tries.get() + 1);
            async move { if status == 200 { Ok(()) } else { Err(ask().status(status, retry_after)) } }
        })
        .await;
        let counted = meter.read();
        assert_eq!(counted.retries + 1, u64::try_from(tries.get()).expect("small"));
        (result, tries.get(), started.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_transient_error_is_tried_again_until_it_succeeds() {
        let (result, tries, _) = run(&policy(), &[503, 429, 200], None).await;
        result.expect("the third try succeeds");
        assert_eq!(tries, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_for_good_is_returned_at_once() {
        for status in [400, 401, 403, 404, 416] {
            let (result, tries, took) = run(&policy(), &[status], None).await;
            assert!(matches!(result, Err(Error::Status { status: s, .. }) if s == status));
            assert_eq!((tries, took), (1, Duration::ZERO));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_are_bounded_and_the_last_error_is_told() {
        let (result, tries, _) = run(&policy(), &[500, 500, 500, 502], None).await;
        assert!(matches!(result, Err(Error::Status { status: 502, .. })));
        assert_eq!(tries, 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_named_by_the_server_is_waited_for() {
        let (result, tries, took) = run(&policy(), &[429, 200], Some(Duration::from_secs(7))).await;
        result.expect("the second try succeeds");
        assert_eq!(tries, 2);
        assert!(took >= Duration::from_secs(7) && took < Duration::from_secs(8), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_beyond_the_deadline_is_not_begun() {
        for seconds in [31, u64::MAX] {
            let (result, tries, took) = run(&policy(), &[429, 200], Some(Duration::from_secs(seconds))).await;
            assert!(matches!(result, Err(Error::Status { status: 429, .. })));
            assert_eq!((tries, took), (1, Duration::ZERO));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_never_ends_is_cut_at_the_deadline() {
        let (started, meter) = (Instant::now(), Meter::default());
        let result: Result<(), Error> =
            with_retries(&policy(), &meter, &ask(), std::future::pending::<Result<(), Error>>).await;
        assert!(matches!(result, Err(Error::Timeout { after, .. }) if after == Duration::from_secs(30)));
        assert_eq!(started.elapsed().as_secs(), 30);
    }
}
