//! [`Admission`]: the [`Schedule`] under a lock, for requests that wait for their turn.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use tokio::sync::oneshot;

use crate::{
    EngineConfig,
    blob::lock,
    cause::Priority,
    schedule::{Schedule, Turn, Wish},
    table::ObjectId,
};

/// Lets requests out in the order of the schedule.
#[derive(Debug)]
pub(crate) struct Admission(Mutex<State>);

#[derive(Debug)]
struct State {
    schedule: Schedule,
    waiting: HashMap<Turn, oneshot::Sender<()>>,
}

/// A place in the schedule; once admitted, leave to have one request on the wire. Given back on drop, at any time.
#[derive(Debug)]
pub(crate) struct Pass {
    admission: Arc<Admission>,
    turn: Turn,
}

impl Admission {
    pub fn new(config: &EngineConfig) -> Arc<Self> {
        let schedule = Schedule::new(config.budgets());
        Arc::new(Self(Mutex::new(State { schedule, waiting: HashMap::new() })))
    }

    /// Waits until a request may go out. Its place in the queue is taken at once, not when this is first polled.
    pub fn admit(self: &Arc<Self>, wish: Wish) -> impl Future<Output = Pass> + use<> {
        let (grant, granted) = oneshot::channel();
        let mut state = lock(&self.0);
        let turn = state.schedule.enter(wish);
        state.waiting.insert(turn, grant);
        state.let_go();
        drop(state);
        let pass = Pass { admission: Arc::clone(self), turn };
        async move {
            // The sender is there until it has sent: the pass holds its place.
            let _ = granted.await;
            pass
        }
    }

    /// Whether anybody waits for a turn who is as urgent.
    pub fn is_wanted(&self, priority: Priority) -> bool {
        lock(&self.0).schedule.is_anything_queued(priority)
    }

    /// Requests of `blob` that wait for their turn.
    pub fn queued(&self, blob: ObjectId, priority: Priority) -> usize {
        lock(&self.0).schedule.queued(blob, priority)
    }
}

impl State {
    fn let_go(&mut self) {
        while let Some(turn) = self.schedule.grant() {
            if let Some(grant) = self.waiting.remove(&turn) {
                // Whoever does not listen any more gives the turn back by itself.
                let _ = grant.send(());
            }
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut state = lock(&self.admission.0);
        state.schedule.leave(self.turn);
        let waited = state.waiting.remove(&self.turn);
        state.let_go();
        drop(state);
        drop(waited);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn wish(blob: u64, bytes: u64) -> Wish {
        Wish { blob: ObjectId::from(blob), priority: Priority::Readahead, bytes, at_once_max: 4 }
    }

    #[test]
    fn a_pass_gives_its_place_back_and_the_next_one_goes() {
        let admission = Admission::new(&EngineConfig { readahead_bytes: 1 << 20, ..EngineConfig::default() });
        let held = admission.admit(wish(1, 1 << 20)).now_or_never().expect("the budget is free");
        let mut next = Box::pin(admission.admit(wish(2, 1 << 20)));
        assert!((&mut next).now_or_never().is_none() && admission.is_wanted(Priority::Readahead));
        assert!(admission.is_wanted(Priority::Prefetch) && !admission.is_wanted(Priority::Demand));
        assert_eq!(admission.queued(ObjectId::from(2), Priority::Readahead), 1);
        drop(held);
        assert!((&mut next).now_or_never().is_some() && !admission.is_wanted(Priority::Prefetch));
    }

    #[test]
    fn whoever_gives_up_waiting_holds_nobody_up() {
        let admission = Admission::new(&EngineConfig { readahead_bytes: 1 << 20, ..EngineConfig::default() });
        let held = admission.admit(wish(1, 1 << 20)).now_or_never().expect("the budget is free");
        let impatient = admission.admit(wish(2, 1 << 20));
        let patient = admission.admit(wish(3, 1 << 20));
        drop(impatient);
        drop(held);
        assert!(patient.now_or_never().is_some());
        assert_eq!(lock(&admission.0).waiting.len(), 0, "nothing is left");
    }
}
