//! [`Link`]: the round trips and the bandwidth that every connection of one server shares.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::rate::Bandwidth;

/// How far a response may make up for a timer or a thread that was late.
const LATE_MAX: Duration = Duration::from_millis(50);

/// A piece holds about this much of the link's time, so that connections take turns.
const PIECE_TIME: Duration = Duration::from_millis(2);
const PIECE_BYTES_MIN: u64 = 2 * 1024;
const PIECE_BYTES_MAX: u64 = 64 * 1024;

/// A link with a round-trip time and a bandwidth; clones are the same link.
///
/// A connection waits one round trip when it is accepted (the handshake), a request waits one before its first
/// byte. Every response byte then takes its turn in one queue: the link remembers when it is next free, hands the
/// time behind that to whoever asks, and a piece is released when its last byte would have arrived. An idle link
/// saves nothing up, so that small answers pay for their bytes like large ones.
#[derive(Clone, Debug)]
pub struct Link {
    round_trip: Duration,
    bandwidth: Bandwidth,
    next_free: Arc<Mutex<Option<Instant>>>,
}

impl Link {
    /// A link that adds `round_trip` and carries `bandwidth`.
    pub fn new(round_trip: Duration, bandwidth: Bandwidth) -> Self {
        Self { round_trip, bandwidth, next_free: Arc::default() }
    }

    /// Waits one round trip.
    pub(super) async fn round_trip(&self) {
        if !self.round_trip.is_zero() {
            sleep(self.round_trip).await;
        }
    }

    /// Begins one response.
    pub(super) fn flow(&self) -> Flow {
        Flow { link: self.clone(), ready: Instant::now() }
    }

    /// Bytes that are sent at once.
    pub(super) fn piece_bytes(&self) -> usize {
        let Bandwidth::BytesPerSecond(rate) = self.bandwidth else { return 64 * 1024 };
        let piece_millis = u64::try_from(PIECE_TIME.as_millis()).unwrap_or(1);
        let bytes = (rate.get().saturating_mul(piece_millis) / 1000).clamp(PIECE_BYTES_MIN, PIECE_BYTES_MAX);
        usize::try_from(bytes).unwrap_or(64 * 1024)
    }

    /// Takes the link's next free time for `bytes` that were ready at `ready`; returns when the last one arrives.
    fn reserve(&self, bytes: u64, ready: Instant) -> Instant {
        let mut next_free = self.next_free.lock().unwrap_or_else(PoisonError::into_inner);
        let start = next_free.map_or(ready, |free| free.max(ready));
        let end = start + self.bandwidth.time_for(bytes);
        *next_free = Some(end);
        end
    }
}

/// One response on its way over a [`Link`].
#[derive(Debug)]
pub(super) struct Flow {
    link: Link,
    /// Since when the next byte could have been sent.
    ready: Instant,
}

impl Flow {
    /// Waits until `bytes` more have crossed the link.
    ///
    /// A piece that follows another was ready when that one left, not when the timer woke us: without this every
    /// late timer would cost bandwidth. The client's own slowness is not made up for beyond [`LATE_MAX`].
    pub(super) async fn send(&mut self, bytes: u64) {
        if self.link.bandwidth == Bandwidth::Unlimited || bytes == 0 {
            return;
        }
        let earliest = Instant::now().checked_sub(LATE_MAX).unwrap_or(self.ready);
        let end = self.link.reserve(bytes, self.ready.max(earliest));
        self.ready = end;
        sleep_until(end).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn megabit(n: u64) -> Link {
        Link::new(Duration::ZERO, format!("{n}mbit").parse().expect("a bandwidth"))
    }

    #[tokio::test(start_paused = true)]
    async fn one_flow_gets_the_whole_bandwidth() {
        let link = megabit(200);
        let begun = Instant::now();
        let mut flow = link.flow();
        for _ in 0..1000 {
            flow.send(25_000).await;
        }
        let took = begun.elapsed().as_secs_f64();
        assert!((0.99..1.01).contains(&took), "25 MB took {took} s at 25 MB/s");
    }

    #[tokio::test(start_paused = true)]
    async fn flows_share_one_bandwidth() {
        let link = megabit(80);
        let begun = Instant::now();
        let flows: Vec<_> = (0..4)
            .map(|_| {
                let mut flow = link.flow();
                tokio::spawn(async move {
                    for _ in 0..100 {
                        flow.send(20_000).await;
                    }
                })
            })
            .collect();
        for flow in flows {
            flow.await.expect("a flow ends");
        }
        let took = begun.elapsed().as_secs_f64();
        assert!((0.79..0.82).contains(&took), "8 MB took {took} s at 10 MB/s");
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_link_saves_nothing_up() {
        let link = megabit(8);
        link.flow().send(1000).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        let begun = Instant::now();
        link.flow().send(100_000).await;
        assert!(begun.elapsed() >= Duration::from_millis(100), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_flow_makes_up_for_a_late_timer_but_not_for_a_slow_client() {
        let link = megabit(8);
        let mut flow = link.flow();
        flow.send(1000).await;
        let begun = Instant::now();
        tokio::time::sleep(Duration::from_millis(10)).await;
        flow.send(10_000).await;
        assert!(begun.elapsed() < Duration::from_millis(13), "late: {:?}", begun.elapsed());

        tokio::time::sleep(Duration::from_secs(10)).await;
        let begun = Instant::now();
        flow.send(100_000).await;
        assert!(begun.elapsed() >= Duration::from_millis(49), "slow: {:?}", begun.elapsed());
    }

    #[test]
    fn a_piece_is_a_small_share_of_a_second() {
        for (mbit, bytes) in [(1, 2048), (200, 50_000), (10_000, 65_536)] {
            assert_eq!(megabit(mbit).piece_bytes(), bytes);
        }
    }
}
