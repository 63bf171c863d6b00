//! [`Object`] and [`Request`]: one row of each table.

use std::collections::BTreeSet;

use super::{
    HandleId, ObjectId, ObjectState, RequestId, RequestState,
    message::{Body, Ending},
};

/// A row of the object table.
#[derive(Debug)]
pub(super) struct Object<O> {
    pub payload: O,
    pub state: ObjectState,
    /// The opening that is in force, from the delivery of its OPEN on.
    pub handle: Option<HandleId>,
    /// An OPEN or CLOSE that nobody has taken yet; there is never more than one.
    pub new_call: Option<RequestId>,
    /// READs that nobody has taken yet.
    pub new_reads: BTreeSet<RequestId>,
    /// Every request on record that is about it.
    pub requests: BTreeSet<RequestId>,
    /// Requests in hand, those that were cancelled meanwhile included.
    pub in_hand: usize,
    /// Work under way that no request asked for.
    pub holds: usize,
}

impl<O> Object<O> {
    pub fn new(payload: O) -> Self {
        Self {
            payload,
            state: ObjectState::Closed,
            handle: None,
            new_call: None,
            new_reads: BTreeSet::new(),
            requests: BTreeSet::new(),
            in_hand: 0,
            holds: 0,
        }
    }

    /// READs that wait or are in hand. An OPEN in hand counts too: it is one.
    pub fn reads_in_all(&self) -> usize {
        self.new_reads.len() + self.in_hand
    }

    pub fn workers(&self) -> usize {
        self.in_hand + self.holds
    }

    /// What may be delivered next: READs only while it is open, and not too many at once.
    pub fn pick(&self, in_hand_max: usize) -> Option<RequestId> {
        if self.new_call.is_some() {
            return self.new_call;
        }
        let may_read = self.state == ObjectState::Open && self.in_hand < in_hand_max;
        self.new_reads.first().copied().filter(|_| may_read)
    }

    /// Takes `request` out of what waits to be delivered.
    pub fn unlist(&mut self, request: RequestId) {
        if self.new_call == Some(request) {
            self.new_call = None;
        }
        self.new_reads.remove(&request);
    }
}

/// A row of the request table.
#[derive(Debug)]
pub(super) struct Request<R, E> {
    pub object: ObjectId,
    pub body: Body<R>,
    pub state: RequestState,
    /// The opening that its message named.
    pub handle: Option<HandleId>,
    /// Somebody was given it and has not answered.
    pub is_in_hand: bool,
    /// Somebody will collect its ending.
    pub is_waited_for: bool,
    /// How it ended, for its waiter.
    pub ending: Option<Ending<E>>,
}

impl<R, E> Request<R, E> {
    pub fn new(object: ObjectId, body: Body<R>, is_waited_for: bool) -> Self {
        Self {
            object,
            body,
            state: RequestState::New,
            handle: None,
            is_in_hand: false,
            is_waited_for,
            ending: None,
        }
    }
}
