//! [`SharedTables`]: the tables under one short lock, with somebody waiting on either side.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, PoisonError},
    task::{Context, Poll, Waker},
};

use super::{
    Answer, Ending, Limits, Message, ObjectId, ObjectState, Refused, Reply, RequestId, Tables,
    tables::Changes,
};
use crate::sync::{Mutex, MutexGuard};

/// What somebody waits for a change of.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Topic {
    Request(RequestId),
    /// Room for another READ, or the end of all work.
    Object(ObjectId),
    Going(ObjectId),
    AnyObject,
    Delivery,
}

/// The tables of one cache, shared by its front ends and its daemon side.
///
/// Every call is one step under one lock, which is never held while anything waits: "is it dead?" and "enter it" are one
/// step, as are "it is over" and "take it out". The futures work on any runtime and may be dropped at any time.
#[derive(Debug)]
pub struct SharedTables<O, R, E> {
    state: Mutex<State<O, R, E>>,
}

#[derive(Debug)]
struct State<O, R, E> {
    tables: Tables<O, R, E>,
    wakers: BTreeMap<(Topic, u64), Waker>,
    /// Places given out in `wakers`.
    places: u64,
}

impl<O: Clone, R: Clone, E: Clone> SharedTables<O, R, E> {
    /// Starts empty.
    pub fn new(limits: Limits) -> Arc<Self> {
        let state = State { tables: Tables::new(limits), wakers: BTreeMap::new(), places: 0 };
        Arc::new(Self { state: Mutex::new(state) })
    }

    /// Takes one step and wakes whoever waits for what it changed.
    pub fn step<T>(&self, step: impl FnOnce(&mut Tables<O, R, E>) -> T) -> T {
        let mut state = self.lock();
        let result = step(&mut state.tables);
        let woken = state.take_woken();
        drop(state);
        woken.into_iter().for_each(Waker::wake);
        result
    }

    /// Asks for a range of `object`, once fewer than the bound wait. See [`Tables::read`].
    ///
    /// # Errors
    ///
    /// [`Refused::Dead`], [`Refused::Dropping`].
    pub async fn read(self: &Arc<Self>, object: ObjectId, read: R) -> Result<Waiting<O, R, E>, Refused> {
        let entered = self.until(Topic::Object(object), |tables| match tables.read(object, read.clone()) {
            Err(Refused::Full { .. }) => None,
            entered => Some(entered.map(|request| self.waiting(request))),
        });
        entered.await
    }

    /// Asks for `object` to be opened. See [`Tables::open`].
    ///
    /// # Errors
    ///
    /// [`Refused::AlreadyOpen`], [`Refused::Dead`], [`Refused::Dropping`].
    pub fn open(self: &Arc<Self>, object: ObjectId) -> Result<Waiting<O, R, E>, Refused> {
        self.step(|tables| tables.open(object)).map(|request| self.waiting(request))
    }

    /// The next message, if there is one now.
    pub fn deliver(&self) -> Option<Message<O, R>> {
        self.step(Tables::deliver)
    }

    /// Waits for the next message.
    pub async fn message(&self) -> Message<O, R> {
        self.until(Topic::Delivery, Tables::deliver).await
    }

    /// Takes in an answer. See [`Tables::answer`].
    ///
    /// # Errors
    ///
    /// Any [`Refused`] of an answer.
    pub fn answer(&self, to: Answer, reply: Reply<E>) -> Result<(), Refused> {
        self.step(|tables| tables.answer(to, reply))
    }

    /// Waits until `request`, which is in hand, need not be worked on any more.
    pub async fn no_longer_in_hand(&self, request: RequestId) {
        self.until(Topic::Request(request), |tables| (!tables.is_in_hand(request)).then_some(())).await;
    }

    /// Keeps `object` from being gone until the hold is dropped.
    ///
    /// # Errors
    ///
    /// [`Refused::Dead`], [`Refused::Dropping`].
    pub fn hold(self: &Arc<Self>, object: ObjectId) -> Result<Hold<O, R, E>, Refused> {
        self.step(|tables| tables.hold(object))?;
        Ok(Hold { tables: Arc::clone(self), object })
    }

    /// Waits until `object` is being dropped.
    pub async fn going(&self, object: ObjectId) {
        self.until(Topic::Going(object), |tables| is_going(tables.state(object)).then_some(())).await;
    }

    /// Withdraws `object` and waits for whoever works for it. Its readers do not wait for that: they are told at once.
    pub async fn drop_object(&self, object: ObjectId) {
        self.step(|tables| tables.drop_object(object));
        self.until(Topic::Object(object), |tables| tables.is_idle(object).then_some(())).await;
    }

    /// Ends everything, refuses everything from now on, and waits for whoever works for any object.
    pub async fn kill(&self) {
        self.step(Tables::kill);
        self.until(Topic::AnyObject, |tables| tables.is_all_idle().then_some(())).await;
    }

    fn waiting(self: &Arc<Self>, request: RequestId) -> Waiting<O, R, E> {
        Waiting { tables: Arc::clone(self), request, place: None, is_over: false }
    }

    /// Waits until `check` has an answer; asked anew whenever `topic` has changed.
    async fn until<T>(&self, topic: Topic, mut check: impl FnMut(&mut Tables<O, R, E>) -> Option<T>) -> T {
        let mut place = Place { tables: self, topic, number: None };
        poll_fn(|context| self.poll(topic, &mut place.number, context, &mut check)).await
    }

    fn poll<T>(
        &self,
        topic: Topic,
        place: &mut Option<u64>,
        context: &Context<'_>,
        check: impl FnOnce(&mut Tables<O, R, E>) -> Option<T>,
    ) -> Poll<T> {
        let mut state = self.lock();
        let found = check(&mut state.tables);
        let woken = state.take_woken();
        if found.is_none() {
            let number = *place.get_or_insert_with(|| {
                state.places += 1;
                state.places
            });
            state.wakers.insert((topic, number), context.waker().clone());
        }
        drop(state);
        woken.into_iter().for_each(Waker::wake);
        found.map_or(Poll::Pending, Poll::Ready)
    }

    fn lock(&self) -> MutexGuard<'_, State<O, R, E>> {
        // A step that panics is a bug of the tables; those who wait are to hear of the others all the same.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<O, R, E> SharedTables<O, R, E> {
    fn leave(&self, topic: Topic, place: Option<u64>) {
        if let Some(number) = place {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let left = state.wakers.remove(&(topic, number));
            drop(state);
            drop(left);
        }
    }
}

impl<O: Clone, R: Clone, E: Clone> State<O, R, E> {
    fn take_woken(&mut self) -> Vec<Waker> {
        let Changes { mut requests, mut objects, may_deliver } = self.tables.take_changes();
        let mut woken = Vec::new();
        requests.sort_unstable();
        requests.dedup();
        objects.sort_unstable();
        objects.dedup();
        for request in requests {
            self.take_topic(Topic::Request(request), &mut woken);
        }
        for object in &objects {
            self.take_topic(Topic::Object(*object), &mut woken);
            if is_going(self.tables.state(*object)) {
                self.take_topic(Topic::Going(*object), &mut woken);
            }
        }
        if !objects.is_empty() {
            self.take_topic(Topic::AnyObject, &mut woken);
        }
        if may_deliver {
            self.take_topic(Topic::Delivery, &mut woken);
        }
        woken
    }

    fn take_topic(&mut self, topic: Topic, woken: &mut Vec<Waker>) {
        while let Some((key, _)) = self.wakers.range((topic, 0)..=(topic, u64::MAX)).next() {
            let key = *key;
            woken.extend(self.wakers.remove(&key));
        }
    }
}

fn is_going(state: Option<ObjectState>) -> bool {
    matches!(state, None | Some(ObjectState::Dropping))
}

/// Takes its waker back when the wait is over or given up.
struct Place<'a, O, R, E> {
    tables: &'a SharedTables<O, R, E>,
    topic: Topic,
    number: Option<u64>,
}

impl<O, R, E> Drop for Place<'_, O, R, E> {
    fn drop(&mut self) {
        self.tables.leave(self.topic, self.number);
    }
}

/// Somebody who waits for a request to end. Dropped, it cancels the request.
#[derive(Debug)]
#[must_use = "dropped, it cancels its request"]
pub struct Waiting<O: Clone, R: Clone, E: Clone> {
    tables: Arc<SharedTables<O, R, E>>,
    request: RequestId,
    place: Option<u64>,
    is_over: bool,
}

impl<O: Clone, R: Clone, E: Clone> Waiting<O, R, E> {
    /// The request.
    pub fn request(&self) -> RequestId {
        self.request
    }
}

impl<O: Clone, R: Clone, E: Clone> Future for Waiting<O, R, E> {
    type Output = Ending<E>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let (tables, request) = (Arc::clone(&self.tables), self.request);
        let polled =
            tables.poll(Topic::Request(request), &mut self.place, context, |tables| tables.collect(request));
        self.is_over |= polled.is_ready();
        polled
    }
}

impl<O: Clone, R: Clone, E: Clone> Drop for Waiting<O, R, E> {
    fn drop(&mut self) {
        self.tables.leave(Topic::Request(self.request), self.place);
        if !self.is_over {
            self.tables.step(|tables| tables.cancel(self.request));
        }
    }
}

/// Work for an object that no request asked for: the object is not gone before its end.
#[derive(Debug)]
pub struct Hold<O: Clone, R: Clone, E: Clone> {
    tables: Arc<SharedTables<O, R, E>>,
    object: ObjectId,
}

impl<O: Clone, R: Clone, E: Clone> Hold<O, R, E> {
    /// The object.
    pub fn object(&self) -> ObjectId {
        self.object
    }
}

impl<O: Clone, R: Clone, E: Clone> Drop for Hold<O, R, E> {
    fn drop(&mut self) {
        self.tables.step(|tables| tables.unhold(self.object));
    }
}
