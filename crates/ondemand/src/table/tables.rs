//! [`Tables`]: objects and requests, as plain data.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound::{Excluded, Unbounded},
};

use super::{
    HandleId, Kind, Message, ObjectId, ObjectState, Refused, RequestId, RequestState,
    id::Numbers,
    message::{Answer, Body, Ending, Reply},
    object::ObjectEvent,
    record::{Object, Request},
    request::RequestEvent,
};

/// How much may wait. Every queue of the tables is bounded by these.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Objects known at once.
    pub objects_max: usize,
    /// READs of one object that are not over.
    pub reads_per_object_max: usize,
    /// READs of one object that are in hand; the others wait their turn, and no other object waits for them.
    pub in_hand_per_object_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { objects_max: 1 << 16, reads_per_object_max: 4096, in_hand_per_object_max: 256 }
    }
}

/// What has changed since it was last asked: whoever waits for one of these should look again.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub requests: Vec<RequestId>,
    pub objects: Vec<ObjectId>,
    pub may_deliver: bool,
}

/// The object table and the request table of one cache.
///
/// `O` is what an object stands for, `R` what a READ asks, `E` why it can fail. Nothing here waits, locks or looks at a
/// clock. These hold between any two calls:
///
/// - a CLOSED object has no READ that is new: reading it made it REOPENING;
/// - a REOPENING object has exactly one OPEN, new or in hand;
/// - a request that is over is found by its waiter and by whoever has it in hand, and by nobody else;
/// - a DROPPING object has nothing new but at most one CLOSE.
#[derive(Debug)]
pub struct Tables<O, R, E> {
    pub(super) objects: BTreeMap<ObjectId, Object<O>>,
    pub(super) requests: BTreeMap<RequestId, Request<R, E>>,
    /// Objects that have something to deliver.
    ready: BTreeSet<ObjectId>,
    /// The object whose turn it was last.
    last: Option<ObjectId>,
    limits: Limits,
    dead: bool,
    numbers: [Numbers; 3],
    changes: Changes,
}

impl<O: Clone, R: Clone, E: Clone> Tables<O, R, E> {
    /// Starts empty.
    pub fn new(limits: Limits) -> Self {
        Self {
            objects: BTreeMap::new(),
            requests: BTreeMap::new(),
            ready: BTreeSet::new(),
            last: None,
            limits,
            dead: false,
            numbers: Default::default(),
            changes: Changes::default(),
        }
    }

    /// Enters an object. It is CLOSED.
    ///
    /// # Errors
    ///
    /// [`Refused::Dead`], [`Refused::Full`].
    pub fn add(&mut self, payload: O) -> Result<ObjectId, Refused> {
        if self.dead {
            return Err(Refused::Dead);
        }
        let limit = self.limits.objects_max;
        if self.objects.len() >= limit {
            return Err(Refused::Full { limit });
        }
        let id = self.numbers[0].next();
        self.objects.insert(id, Object::new(payload));
        Ok(id)
    }

    /// Asks for `object` to be open before anybody reads it.
    ///
    /// # Errors
    ///
    /// [`Refused::AlreadyOpen`] when it is, or is about to be: a second OPEN would make a second handle.
    /// [`Refused::Dead`], [`Refused::Dropping`].
    pub fn open(&mut self, object: ObjectId) -> Result<RequestId, Refused> {
        match self.alive(object)?.state {
            ObjectState::Closed => {
                let open = self.want(object);
                open.inspect(|open| self.request_mut(*open).is_waited_for = true)
                    .ok_or(Refused::AlreadyOpen { object })
            }
            _ => Err(Refused::AlreadyOpen { object }),
        }
    }

    /// Asks for a range of `object`. Where the object is not open, an OPEN goes first.
    ///
    /// # Errors
    ///
    /// [`Refused::Full`] when too many READs of it wait, [`Refused::Dead`], [`Refused::Dropping`].
    pub fn read(&mut self, object: ObjectId, read: R) -> Result<RequestId, Refused> {
        let limit = self.limits.reads_per_object_max;
        if self.alive(object)?.reads_in_all() >= limit {
            return Err(Refused::Full { limit });
        }
        let id = self.enter(object, Body::Read(read), true);
        self.object_mut(object).new_reads.insert(id);
        self.want(object);
        self.refresh(object);
        Ok(id)
    }

    /// Hands out the next request: objects take turns, and of one object the oldest goes first.
    pub fn deliver(&mut self) -> Option<Message<O, R>> {
        let after = self.last.map_or(Unbounded, Excluded);
        let object = self.ready.range((after, Unbounded)).next().or_else(|| self.ready.first()).copied()?;
        self.last = Some(object);
        let request = self.objects.get(&object)?.pick(self.limits.in_hand_per_object_max)?;
        let body = self.requests.get(&request)?.body.clone();
        if body.kind() == Kind::Open {
            let handle = self.numbers[1].next();
            self.object_mut(object).handle = Some(handle);
        }
        let at = self.object_mut(object);
        let (handle, payload) = (at.handle.unwrap_or(HandleId::from(0)), at.payload.clone());
        at.unlist(request);
        self.move_on(request, RequestEvent::Deliver);
        self.request_mut(request).handle = Some(handle);
        if body.kind() == Kind::Close {
            self.erase(request);
            self.object_mut(object).handle = None;
        } else {
            self.request_mut(request).is_in_hand = true;
            self.object_mut(object).in_hand += 1;
        }
        self.refresh(object);
        Some(Message { request, object, handle, payload, body })
    }

    /// Takes in what the daemon says to a message.
    ///
    /// # Errors
    ///
    /// [`Refused::UnknownRequest`], [`Refused::Kind`], [`Refused::NotDelivered`], [`Refused::Handle`] when it answers
    /// nothing that is in hand; [`Refused::Cancelled`] when nobody waits for it any more: it is taken for the end of
    /// the work then.
    pub fn answer(&mut self, to: Answer, reply: Reply<E>) -> Result<(), Refused> {
        let request = to.request;
        let found = self.requests.get(&request).ok_or(Refused::UnknownRequest { request })?;
        let (asked, answered) = (found.body.kind(), reply.kind());
        if asked != answered {
            return Err(Refused::Kind { request, asked, answered });
        }
        if found.state == RequestState::New {
            return Err(Refused::NotDelivered { request });
        }
        if !found.is_in_hand {
            return Err(Refused::UnknownRequest { request });
        }
        if found.object != to.object || found.handle != Some(to.handle) {
            return Err(Refused::Handle { request, handle: to.handle });
        }
        let is_over = found.state != RequestState::Delivered;
        self.put_down(request);
        if is_over {
            self.forget_if_over(request);
            self.refresh(to.object);
            return Err(Refused::Cancelled { request });
        }
        self.finish(request, RequestEvent::Answer, Ending::Answered(reply.clone()));
        if let Reply::Open(opened) = reply {
            self.opened(to.object, opened);
        }
        self.refresh(to.object);
        Ok(())
    }

    /// The waiter of `request` went away. An OPEN goes on without it: READs may hide behind it.
    pub fn cancel(&mut self, request: RequestId) {
        let Some(found) = self.requests.get_mut(&request) else { return };
        found.is_waited_for = false;
        let object = found.object;
        if found.body.kind() == Kind::Read && found.state.on(RequestEvent::Cancel).is_ok() {
            self.finish(request, RequestEvent::Cancel, Ending::Dropped);
        }
        self.forget_if_over(request);
        self.refresh(object);
    }

    /// What the waiter of `request` waits for; `None` while it is not over. Given once.
    pub fn collect(&mut self, request: RequestId) -> Option<Ending<E>> {
        let found = self.requests.get_mut(&request)?;
        let ending = found.ending.take()?;
        found.is_waited_for = false;
        self.forget_if_over(request);
        Some(ending)
    }

    /// Whether `request` is still to be worked on by whoever has it in hand.
    pub fn is_in_hand(&self, request: RequestId) -> bool {
        self.requests.get(&request).is_some_and(|found| found.state == RequestState::Delivered)
    }

    /// The daemon closed its last descriptor of one opening. What it had in hand is new again; what it had not yet
    /// opened is not opened by it.
    pub fn release(&mut self, object: ObjectId, handle: HandleId) {
        let Some(found) = self.objects.get_mut(&object).filter(|found| found.handle == Some(handle)) else {
            return;
        };
        found.handle = None;
        let Ok(state) = found.state.on(ObjectEvent::Released) else { return };
        found.state = state;
        if state == ObjectState::Closed {
            self.take_back(object, false);
            self.reopen_if_read(object);
        } else if let Some(close) = found.new_call.take() {
            self.erase(close);
        }
        self.refresh(object);
    }

    /// Another daemon takes over: every handle is gone, and whatever was not answered is new again.
    pub fn restore(&mut self) {
        let objects: Vec<ObjectId> = self.objects.keys().copied().collect();
        for object in objects {
            let found = self.object_mut(object);
            found.handle = None;
            if let Ok(state) = found.state.on(ObjectEvent::Restored) {
                found.state = state;
            }
            if found.state == ObjectState::Dropping
                && let Some(close) = found.new_call.take()
            {
                // The handle that it closes died with the daemon.
                self.erase(close);
            }
            self.take_back(object, true);
            self.reopen_if_read(object);
            self.refresh(object);
        }
    }

    /// Withdraws `object`: its requests end, new ones are refused. It is gone for good once [`Tables::is_idle`].
    pub fn drop_object(&mut self, object: ObjectId) {
        self.withdraw(object, &Ending::Dropped);
    }

    /// The cache is dead: everything ends in this one step, and whatever comes later is refused.
    pub fn kill(&mut self) {
        self.dead = true;
        let objects: Vec<ObjectId> = self.objects.keys().copied().collect();
        for object in objects {
            self.object_mut(object).handle = None;
            self.withdraw(object, &Ending::Dead);
        }
    }

    /// Keeps `object` from being gone while work for it is under way that nobody asked for.
    ///
    /// # Errors
    ///
    /// [`Refused::Dead`], [`Refused::Dropping`].
    pub fn hold(&mut self, object: ObjectId) -> Result<(), Refused> {
        self.alive(object)?;
        self.object_mut(object).holds += 1;
        Ok(())
    }

    /// Ends one [`Tables::hold`].
    pub fn unhold(&mut self, object: ObjectId) {
        if let Some(found) = self.objects.get_mut(&object) {
            found.holds = found.holds.saturating_sub(1);
            self.refresh(object);
        }
    }

    /// Whether nobody works for `object`.
    pub fn is_idle(&self, object: ObjectId) -> bool {
        self.objects.get(&object).is_none_or(|found| found.workers() == 0)
    }

    /// Whether nobody works for any object.
    pub fn is_all_idle(&self) -> bool {
        self.objects.values().all(|found| found.workers() == 0)
    }

    /// Where `object` is; `None` once it is gone.
    pub fn state(&self, object: ObjectId) -> Option<ObjectState> {
        self.objects.get(&object).map(|found| found.state)
    }

    /// Objects on record, those that are going included.
    pub fn objects(&self) -> usize {
        self.objects.len()
    }

    /// Requests on record, those that are over but not collected included.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether no request is on record.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// What has changed since the last call.
    pub(super) fn take_changes(&mut self) -> Changes {
        self.changes.may_deliver = !self.ready.is_empty();
        std::mem::take(&mut self.changes)
    }

    fn alive(&self, object: ObjectId) -> Result<&Object<O>, Refused> {
        if self.dead {
            return Err(Refused::Dead);
        }
        let found = self.objects.get(&object).filter(|found| found.state != ObjectState::Dropping);
        found.ok_or(Refused::Dropping { object })
    }

    fn enter(&mut self, object: ObjectId, body: Body<R>, is_waited_for: bool) -> RequestId {
        let id = self.numbers[2].next();
        self.requests.insert(id, Request::new(object, body, is_waited_for));
        self.object_mut(object).requests.insert(id);
        id
    }

    fn erase(&mut self, request: RequestId) {
        if let Some(gone) = self.requests.remove(&request)
            && let Some(found) = self.objects.get_mut(&gone.object)
        {
            found.requests.remove(&request);
        }
    }

    /// Queues an OPEN where none is under way and none is needed any more; returns it.
    fn want(&mut self, object: ObjectId) -> Option<RequestId> {
        let found = self.objects.get_mut(&object)?;
        let before = found.state;
        found.state = before.on(ObjectEvent::Wanted).ok()?;
        if before != ObjectState::Closed {
            return None;
        }
        let open = self.enter(object, Body::Open, false);
        self.object_mut(object).new_call = Some(open);
        self.refresh(object);
        Some(open)
    }

    fn reopen_if_read(&mut self, object: ObjectId) {
        let found = self.object_mut(object);
        if found.state == ObjectState::Closed && !found.new_reads.is_empty() {
            self.want(object);
        }
    }

    fn opened(&mut self, object: ObjectId, opened: Result<u64, E>) {
        let found = self.object_mut(object);
        let event = if opened.is_ok() { ObjectEvent::Opened } else { ObjectEvent::OpenFailed };
        if let Ok(state) = found.state.on(event) {
            found.state = state;
        }
        let Err(error) = opened else { return };
        found.handle = None;
        // Whoever hid behind it gets its error, and the next one tries again.
        for read in std::mem::take(&mut found.new_reads) {
            self.finish(read, RequestEvent::Cancel, Ending::Answered(Reply::Read(Err(error.clone()))));
        }
    }

    /// What is in hand for `object` is in hand no longer: READs are new again; an OPEN is too, or has failed.
    fn take_back(&mut self, object: ObjectId, opens_again: bool) {
        for request in self.requests_of(object) {
            let found = self.request_mut(request);
            found.is_in_hand = false;
            if found.state != RequestState::Delivered {
                self.forget_if_over(request);
                continue;
            }
            if found.body.kind() == Kind::Open && !opens_again {
                self.finish(request, RequestEvent::Cancel, Ending::Dropped);
                continue;
            }
            found.handle = None;
            let is_open = found.body.kind() == Kind::Open;
            self.move_on(request, RequestEvent::Restore);
            let at = self.object_mut(object);
            if is_open {
                at.new_call = Some(request);
            } else {
                at.new_reads.insert(request);
            }
            self.changes.requests.push(request);
        }
        self.object_mut(object).in_hand = 0;
    }

    fn withdraw(&mut self, object: ObjectId, ending: &Ending<E>) {
        let Some(found) = self.objects.get_mut(&object) else { return };
        if found.state == ObjectState::Dropping {
            // A CLOSE may be left, which a dead cache does not send.
            if matches!(ending, Ending::Dead)
                && let Some(close) = found.new_call.take()
            {
                self.erase(close);
            }
            return self.refresh(object);
        }
        if let Ok(state) = found.state.on(ObjectEvent::Dropped) {
            found.state = state;
        }
        found.new_call = None;
        found.new_reads.clear();
        let has_handle = found.handle.is_some();
        for request in self.requests_of(object) {
            if self.request_mut(request).state.on(RequestEvent::Cancel).is_ok() {
                self.finish(request, RequestEvent::Cancel, ending.clone());
            }
        }
        if has_handle {
            let close = self.enter(object, Body::Close, false);
            self.object_mut(object).new_call = Some(close);
        }
        self.refresh(object);
    }

    fn requests_of(&self, object: ObjectId) -> Vec<RequestId> {
        self.objects.get(&object).map(|found| found.requests.iter().copied().collect()).unwrap_or_default()
    }

    /// Ends `request` and keeps the ending for its waiter.
    fn finish(&mut self, request: RequestId, event: RequestEvent, ending: Ending<E>) {
        self.move_on(request, event);
        let found = self.request_mut(request);
        let object = found.object;
        if found.is_waited_for {
            found.ending = Some(ending);
        }
        if let Some(at) = self.objects.get_mut(&object) {
            at.unlist(request);
        }
        self.changes.requests.push(request);
        self.forget_if_over(request);
    }

    fn put_down(&mut self, request: RequestId) {
        let found = self.request_mut(request);
        found.is_in_hand = false;
        let object = found.object;
        let at = self.object_mut(object);
        at.in_hand = at.in_hand.saturating_sub(1);
    }

    fn move_on(&mut self, request: RequestId, event: RequestEvent) {
        let found = self.request_mut(request);
        found.state = found.state.on(event).unwrap_or_else(|state| {
            panic!("request {request} is {state:?}, and {event:?} cannot happen to it")
        });
    }

    /// Takes out a request that is over, once nobody looks for it.
    fn forget_if_over(&mut self, request: RequestId) {
        let Some(found) = self.requests.get(&request) else { return };
        let is_over = matches!(found.state, RequestState::Done | RequestState::Cancelled);
        if is_over && !found.is_in_hand && !found.is_waited_for {
            self.erase(request);
        }
    }

    /// Notes that `object` has changed; takes it out when it is going and nothing is left of it.
    fn refresh(&mut self, object: ObjectId) {
        self.changes.objects.push(object);
        let Some(found) = self.objects.get(&object) else { return };
        if found.state == ObjectState::Dropping && found.workers() == 0 && found.new_call.is_none() {
            self.objects.remove(&object);
            self.ready.remove(&object);
            return;
        }
        if found.pick(self.limits.in_hand_per_object_max).is_some() {
            self.ready.insert(object);
        } else {
            self.ready.remove(&object);
        }
    }

    fn object_mut(&mut self, object: ObjectId) -> &mut Object<O> {
        self.objects.get_mut(&object).expect("asked for only while it is in the table")
    }

    fn request_mut(&mut self, request: RequestId) -> &mut Request<R, E> {
        self.requests.get_mut(&request).expect("asked for only while it is in the table")
    }
}
