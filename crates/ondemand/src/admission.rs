//! [`Admission`] and [`Gate`]: how many requests are on the wire, and for whom.
//!
//! Each priority has a budget of its own, so that no reader waits behind readahead or prefetch. A blob may have only so
//! many requests out, and one lane of its own for a waiting reader when others have used up the budget: a blob whose
//! source hangs holds up nobody else's readers.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    EngineConfig,
    cause::{PerPriority, Priority},
};

/// The budget counts in these, so that it fits a semaphore.
const UNIT_BYTES: u64 = 4 << 10;

/// What a request costs at least: it bounds the number of requests as well.
const REQUEST_BYTES_MIN: u64 = 128 << 10;

/// The engine's budget of bytes on the wire.
#[derive(Debug)]
pub(crate) struct Admission {
    bytes: PerPriority<Budget>,
}

/// One blob's share.
#[derive(Debug)]
pub(crate) struct Gate {
    requests: PerPriority<Arc<Semaphore>>,
    lane: Arc<Semaphore>,
}

/// Leave to have one request on the wire; given back on drop.
#[derive(Debug)]
pub(crate) struct Pass {
    _request: Option<OwnedSemaphorePermit>,
    _bytes: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
struct Budget {
    units: Arc<Semaphore>,
    size: u32,
}

impl Gate {
    pub fn new(config: &EngineConfig) -> Self {
        let requests = config.requests_per_blob();
        let gate = |count: usize| Arc::new(Semaphore::new(count.clamp(1, Semaphore::MAX_PERMITS)));
        Self {
            requests: PerPriority {
                prefetch: gate(requests.prefetch),
                readahead: gate(requests.readahead),
                demand: gate(requests.demand),
            },
            lane: gate(1),
        }
    }
}

impl Admission {
    pub fn new(config: &EngineConfig) -> Self {
        let bytes = config.bytes();
        Self {
            bytes: PerPriority {
                prefetch: Budget::new(bytes.prefetch),
                readahead: Budget::new(bytes.readahead),
                demand: Budget::new(bytes.demand),
            },
        }
    }

    /// Waits until a request of `bytes` may go out.
    ///
    /// The semaphores are never closed, so that the errors ignored here cannot happen.
    pub async fn admit(&self, gate: &Gate, priority: Priority, bytes: u64) -> Pass {
        let request = Arc::clone(gate.requests.of(priority)).acquire_owned().await.ok();
        let budget = self.bytes.of(priority);
        let shared = Arc::clone(&budget.units).acquire_many_owned(budget.cost(bytes));
        let bytes = if priority == Priority::Demand {
            tokio::select! {
                biased;
                permit = shared => permit,
                permit = Arc::clone(&gate.lane).acquire_owned() => permit,
            }
        } else {
            shared.await
        };
        Pass { _request: request, _bytes: bytes.ok() }
    }
}

impl Budget {
    fn new(bytes: usize) -> Self {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let size = u32::try_from(bytes / UNIT_BYTES).unwrap_or(u32::MAX >> 4).clamp(1, u32::MAX >> 4);
        let permits = usize::try_from(size).unwrap_or(Semaphore::MAX_PERMITS);
        Self { units: Arc::new(Semaphore::new(permits)), size }
    }

    /// A request larger than the whole budget waits for all of it.
    fn cost(&self, bytes: u64) -> u32 {
        let units = bytes.max(REQUEST_BYTES_MIN).div_ceil(UNIT_BYTES);
        u32::try_from(units).unwrap_or(u32::MAX).min(self.size)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn config() -> EngineConfig {
        EngineConfig {
            demand_bytes: 1 << 20,
            readahead_bytes: 1 << 20,
            demand_requests_per_blob: 4,
            ..Default::default()
        }
    }

    fn now(admission: &Admission, gate: &Gate, priority: Priority, bytes: u64) -> Option<Pass> {
        admission.admit(gate, priority, bytes).now_or_never()
    }

    #[test]
    fn demand_does_not_wait_behind_readahead() {
        let (admission, gate) = (Admission::new(&config()), Gate::new(&config()));
        let _held = now(&admission, &gate, Priority::Readahead, 1 << 20).expect("the budget is free");
        assert!(now(&admission, &gate, Priority::Readahead, 1).is_none());
        assert!(now(&admission, &gate, Priority::Demand, 1 << 20).is_some());
    }

    #[test]
    fn a_blob_has_a_lane_of_its_own_when_another_has_used_up_the_budget() {
        let admission = Admission::new(&config());
        let (greedy, other) = (Gate::new(&config()), Gate::new(&config()));
        let _held = now(&admission, &greedy, Priority::Demand, 1 << 20).expect("the budget is free");
        let lane = now(&admission, &other, Priority::Demand, 1 << 16).expect("the lane is free");
        assert!(now(&admission, &other, Priority::Demand, 1 << 16).is_none(), "there is one lane");
        drop(lane);
        assert!(now(&admission, &other, Priority::Demand, 1 << 16).is_some());
    }

    #[test]
    fn requests_are_bounded_for_each_blob_and_a_pass_gives_its_place_back() {
        let admission = Admission::new(&EngineConfig::default());
        let gate = Gate::new(&config());
        let passes: Vec<Pass> =
            (0..4).map(|_| now(&admission, &gate, Priority::Demand, 1).expect("under the limit")).collect();
        assert!(now(&admission, &gate, Priority::Demand, 1).is_none());
        drop(passes);
        assert!(now(&admission, &gate, Priority::Demand, 1).is_some());
    }

    #[test]
    fn a_request_larger_than_the_budget_goes_alone() {
        let (admission, gate) = (Admission::new(&config()), Gate::new(&config()));
        let _held = now(&admission, &gate, Priority::Readahead, u64::MAX).expect("it takes the whole budget");
        assert!(now(&admission, &gate, Priority::Readahead, 1).is_none());
    }
}
