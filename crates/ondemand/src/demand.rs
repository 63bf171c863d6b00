//! [`Engine::demand`]: a reader's question on its way through the tables, and the engine's side of them.
//!
//! The reader's side enters a READ and waits. The daemon's side needs no thread of its own: whoever changes what can be
//! delivered pumps, which books the chunks at once, so that a reader's chunks are booked before what is read ahead of
//! it, and leaves only the waiting to a task.

use std::sync::{Arc, Weak};

use larder_fscache::ObjectRange;
use tokio::time::{Instant, timeout_at};
use tracing::trace;

use crate::{
    Blob, Cause, Engine, FillError,
    flight::Ticket,
    table::{Answer, Body, Ending, Hold, Message, ObjectId, Refused, Reply, SharedTables},
};

/// What an object of the tables stands for.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    name: Arc<str>,
    /// Not kept alive by its place in the tables.
    blob: Weak<Blob>,
}

/// What a reader asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Demand {
    range: ObjectRange,
    pid: Option<u32>,
}

/// The engine's tables: objects are blobs, READs are ranges of them.
pub(crate) type EngineTables = SharedTables<Served, Demand, FillError>;
pub(crate) type EngineHold = Hold<Served, Demand, FillError>;

impl Engine {
    /// Asks for `want` and waits until it is here, at most `until`.
    pub(crate) async fn demand(
        self: &Arc<Self>,
        blob: &Arc<Blob>,
        want: ObjectRange,
        pid: Option<u32>,
        until: Instant,
    ) -> Result<(), FillError> {
        let object = self.enter(blob)?;
        let asked = async {
            let waiting = self.tables.read(object, Demand { range: want, pid }).await;
            let waiting = waiting.map_err(|refused| FillError::refused(blob, &refused))?;
            self.pump();
            self.read_ahead(blob, want);
            match waiting.await {
                Ending::Answered(Reply::Read(result)) => result,
                Ending::Dead => Err(FillError::refused(blob, &Refused::Dead)),
                // No READ is answered as an OPEN: the tables see to that.
                Ending::Dropped | Ending::Answered(Reply::Open(_)) => {
                    Err(FillError::refused(blob, &Refused::Dropping { object }))
                }
            }
        };
        // Given up, the READ is cancelled, and whoever works for it alone stops.
        timeout_at(until, asked).await.unwrap_or_else(|_| {
            Err(FillError::Deadline {
                blob: Arc::clone(blob.name()),
                range: want,
                after: self.config.deadline,
            })
        })
    }

    /// Takes what can be delivered. To be called after every step that may have made something deliverable.
    pub(crate) fn pump(self: &Arc<Self>) {
        while let Some(message) = self.tables.deliver() {
            match message.body {
                Body::Open => self.copen(&message),
                Body::Close => close(&message),
                Body::Read(demand) => self.take_in_hand(&message, demand),
            }
        }
    }

    /// Stops all work for `blob` and refuses it from now on. Its readers get an error at once; returns when nobody
    /// writes to its cookie any more.
    pub async fn withdraw(self: &Arc<Self>, blob: &Arc<Blob>) {
        // One that cannot be entered has no work.
        let Ok(object) = self.enter(blob) else { return };
        self.tables.drop_object(object).await;
        self.pump();
    }

    /// Ends everything: whoever waits gets an error at once, and so does whoever comes later. Returns when nobody
    /// writes to any cookie any more.
    ///
    /// Not for a worker that another one follows: its readers are to go on waiting.
    pub async fn shut_down(&self) {
        self.tables.kill().await;
    }

    /// The object of `blob`, entered when it is first asked for.
    pub(crate) fn enter(self: &Arc<Self>, blob: &Arc<Blob>) -> Result<ObjectId, FillError> {
        let entered = blob.entered();
        if let Some(entered) = entered.get() {
            return Ok(entered.object);
        }
        let served = Served { name: Arc::clone(blob.name()), blob: Arc::downgrade(blob) };
        let object = self.tables.step(|tables| tables.add(served));
        let object = object.map_err(|refused| FillError::refused(blob, &refused))?;
        let mine = Entered { engine: Arc::downgrade(self), object };
        // Of two that came at once, the second gives its own up.
        Ok(entered.get_or_init(|| mine).object)
    }

    /// An object of ours is opened by knowing its size.
    fn copen(&self, message: &Message<Served, Demand>) {
        let (obj, msg_id, object_id) = numbers(message);
        trace!(obj, msg_id, object_id, fd = -1, flags = 0, "cachefiles_ondemand_open");
        let size = message.payload.blob.upgrade().map(|blob| blob.size());
        trace!(obj, msg_id, len = size, "cachefiles_ondemand_copen");
        let opened = size.ok_or_else(|| FillError::Abandoned { blob: Arc::clone(&message.payload.name) });
        // Refused when its object went meanwhile.
        let _ = self.tables.answer(message.answer(), Reply::Open(opened));
    }

    fn take_in_hand(self: &Arc<Self>, message: &Message<Served, Demand>, demand: Demand) {
        let (obj, msg_id, object_id) = numbers(message);
        let (start, len, pid) = (demand.range.start(), demand.range.len(), demand.pid);
        // At its delivery, as the numbers are not all known before; the kernel, which tells it earlier, prints zeros.
        trace!(obj, msg_id, object_id, start, len, blob = %message.payload.name, pid, "cachefiles_ondemand_read");
        let (engine, name) = (Arc::clone(self), Arc::clone(&message.payload.name));
        let mut in_hand = InHand { engine, name, to: message.answer(), result: None, pumps: false };
        // Whoever waits for it has the blob too.
        let Some(blob) = message.payload.blob.upgrade() else { return };
        let cause = Cause::Demand { pid: demand.pid };
        match self.book(&blob, demand.range, cause) {
            Ok(tickets) if tickets.is_empty() => in_hand.result = Some(Ok(())),
            Err(error) => in_hand.result = Some(Err(error)),
            Ok(tickets) => drop(self.handle.spawn(in_hand.see_through(blob, demand.range, cause, tickets))),
        }
    }
}

/// A handle of ours is nothing but its number: it is given back as soon as that is asked for.
fn close(message: &Message<Served, Demand>) {
    let (obj, msg_id, object_id) = numbers(message);
    trace!(obj, msg_id, object_id, "cachefiles_ondemand_close");
    trace!(obj, object_id, "cachefiles_ondemand_fd_release");
}

/// `obj`, `msg_id` and `object_id` of the kernel's events.
fn numbers<O, R>(message: &Message<O, R>) -> (u64, u64, u64) {
    (message.object.get(), message.request.get(), message.handle.get())
}

/// A READ in hand. However its work ends, it is answered.
struct InHand {
    engine: Arc<Engine>,
    name: Arc<str>,
    to: Answer,
    result: Option<Result<(), FillError>>,
    /// Whether nobody else looks after what can be delivered once this is answered.
    pumps: bool,
}

impl InHand {
    async fn see_through(mut self, blob: Arc<Blob>, want: ObjectRange, cause: Cause, tickets: Vec<Ticket>) {
        self.pumps = true;
        let engine = Arc::clone(&self.engine);
        self.result = tokio::select! {
            biased;
            result = engine.rounds(&blob, want, cause, tickets) => Some(result),
            // The reader went away, or the blob.
            () = engine.tables.no_longer_in_hand(self.to.request) => None,
        };
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        let abandoned = || Err(FillError::Abandoned { blob: Arc::clone(&self.name) });
        let result = self.result.take().unwrap_or_else(abandoned);
        let (obj, msg_id) = (self.to.object.get(), self.to.request.get());
        trace!(obj, msg_id, ok = result.is_ok(), "cachefiles_ondemand_cread");
        // Refused when nobody waits for it any more.
        let _ = self.engine.tables.answer(self.to, Reply::Read(result));
        if self.pumps {
            self.engine.pump();
        }
    }
}

/// A blob's place in the tables. Dropped with the blob, it is given up.
#[derive(Debug)]
pub(crate) struct Entered {
    engine: Weak<Engine>,
    object: ObjectId,
}

impl Entered {
    /// The number for traces.
    pub fn object(&self) -> ObjectId {
        self.object
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        if let Some(engine) = self.engine.upgrade() {
            engine.tables.step(|tables| tables.drop_object(self.object));
            engine.pump();
        }
    }
}
