//! [`Gate`]: who may mount while others stop the daemon, and whether it ends or another worker goes on.

use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::errors::{Kind, told};

/// Lets mounts be made until the daemon stops.
///
/// Whoever makes one has a [`Pass`], until it stands in the table. Any number of stops may be under way at once: while one is,
/// nobody gets a pass, and after one that has succeeded nobody ever does again.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    /// Told when the last pass is given back.
    nobody_mounts: Notify,
}

/// All that counts, under one lock: seen one after the other, two stops could each believe that the other one keeps it closed.
#[derive(Debug, Default, Eq, PartialEq)]
struct State {
    passes: usize,
    stops: usize,
    /// A stop has succeeded: the daemon ends once nobody reads any more.
    ending: bool,
    /// Another worker is about to take over.
    handed_over: bool,
}

impl State {
    fn is_closed(&self) -> bool {
        self.stops > 0 || self.ending
    }

    fn pass(&mut self) -> bool {
        let may = !self.is_closed();
        self.passes += usize::from(may);
        may
    }

    fn give_back(&mut self) {
        self.passes -= 1;
    }

    fn begin_stop(&mut self) {
        self.stops += 1;
    }

    fn end_stop(&mut self) {
        self.stops -= 1;
    }

    /// Closes it for good, unless another worker goes on.
    fn end(&mut self) -> End {
        assert!(
            self.stops > 0 && self.passes == 0,
            "a mount that nobody knows would be left alone: {self:?}"
        );
        match std::mem::replace(&mut self.ending, !self.handed_over) {
            _ if self.handed_over => End::HandedOver,
            true => End::Another,
            false => End::First,
        }
    }

    fn hand_over(&mut self) -> bool {
        self.handed_over |= !self.ending;
        self.handed_over
    }
}

/// What comes of a stop that has succeeded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum End {
    /// It is the first one: the daemon is to end.
    First,
    /// Another one has ended it.
    Another,
    /// Nothing: the worker that takes over goes on, and is to be stopped.
    HandedOver,
}

impl Gate {
    /// The right to mount something; what is mounted must be in the table before it is dropped.
    ///
    /// # Errors
    ///
    /// When the daemon is stopping: whatever is mounted from now on, nobody would unmount.
    pub(super) fn pass(&self) -> anyhow::Result<Pass<'_>> {
        if self.lock().pass() {
            return Ok(Pass(self));
        }
        Err(told(Kind::Conflict, "the daemon is stopping", "try again when it has stopped"))
    }

    /// Whether the daemon is stopping.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().is_closed()
    }

    /// Decides that another worker takes over; tells whether it is so. Not after a stop that has succeeded: the daemon would go on,
    /// and nobody would end it.
    pub(super) fn hand_over(&self) -> bool {
        self.lock().hand_over()
    }

    /// Lets nobody mount any more until what is returned is dropped. Returns when nobody is about to.
    pub(super) async fn close(&self) -> Closed<'_> {
        self.lock().begin_stop();
        let closed = Closed(self);
        loop {
            // Listened for before the look: it may happen in between.
            let mut told = pin!(self.nobody_mounts.notified());
            told.as_mut().enable();
            if self.lock().passes == 0 {
                return closed;
            }
            told.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to mount something.
#[derive(Debug)]
pub(super) struct Pass<'a>(&'a Gate);

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.give_back();
        if state.passes == 0 {
            self.0.nobody_mounts.notify_waiters();
        }
    }
}

/// A stop that is under way: nobody mounts.
#[derive(Debug)]
pub(super) struct Closed<'a>(&'a Gate);

impl Closed<'_> {
    /// The stop has succeeded: nobody mounts ever again, unless another worker takes over.
    pub(super) fn for_good(self) -> End {
        self.0.lock().end()
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.lock().end_stop();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn close(gate: &Gate) -> Closed<'_> {
        gate.close().now_or_never().expect("nobody mounts")
    }

    #[test]
    fn p1_nobody_mounts_while_one_of_two_stops_is_under_way_however_the_other_ends() {
        let gate = Gate::default();
        let (one, other) = (close(&gate), close(&gate));
        drop(one);
        gate.pass().expect_err("the other one may still succeed");
        assert_eq!(other.for_good(), End::First);
        gate.pass().expect_err("it has");
        assert_eq!(close(&gate).for_good(), End::Another);
    }

    #[test]
    fn p4_two_stops_that_both_fail_leave_the_daemon_as_it_was() {
        let gate = Gate::default();
        for order in [[0, 1], [1, 0]] {
            let mut stops = [Some(close(&gate)), Some(close(&gate))];
            for n in order {
                assert!(gate.is_closed());
                stops[n] = None;
            }
            gate.pass().expect("both have failed");
            assert!(!gate.is_closed());
        }
    }

    #[test]
    fn p1_a_stop_that_fails_after_another_has_succeeded_opens_nothing() {
        let gate = Gate::default();
        let (one, other) = (close(&gate), close(&gate));
        assert_eq!(one.for_good(), End::First);
        drop(other);
        gate.pass().expect_err("the daemon ends");
    }

    #[test]
    fn p4_either_a_stop_ends_the_daemon_or_another_worker_takes_over() {
        let gate = Gate::default();
        assert_eq!(close(&gate).for_good(), End::First);
        assert!(!gate.hand_over(), "it ends");
        let gate = Gate::default();
        let stop = close(&gate);
        assert!(gate.hand_over() && gate.hand_over(), "the stop may still fail");
        assert_eq!(stop.for_good(), End::HandedOver);
        assert!(gate.hand_over());
    }

    #[test]
    fn a_stop_waits_for_who_is_about_to_mount_and_lets_nobody_else_begin() {
        let gate = Gate::default();
        let passes = [gate.pass(), gate.pass()].map(|pass| pass.expect("nobody stops"));
        let mut stop = Box::pin(gate.close());
        for pass in passes {
            assert!((&mut stop).now_or_never().is_none(), "a mount is being made");
            gate.pass().expect_err("a stop waits");
            drop(pass);
        }
        stop.now_or_never().expect("both have been made").for_good();
    }

    #[test]
    fn a_stop_that_is_given_up_while_it_waits_is_over() {
        let gate = Gate::default();
        let pass = gate.pass().expect("nobody stops");
        assert!(gate.close().now_or_never().is_none());
        drop(pass);
        gate.pass().expect("nobody stops any more");
        assert_eq!(*gate.lock(), State::default());
    }
}
