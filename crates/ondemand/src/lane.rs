//! [`Queue`]: the requests of one booking whose stored bytes lie on this machine, and the lanes that bring them.
//!
//! Such a request takes a fraction of a millisecond, which the ways through the runtime would double. So a booking sends
//! out not a task for each request but as many lanes as the processors can use, and a lane brings one request after the other
//! on a thread that may block, until none is left or it is time to let others have a turn.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};

use larder_faults::{Site, point};
use larder_remote::RangeSource;
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

use crate::{
    Cause, Engine, FillError,
    cause::Priority,
    flight::BookingId,
    held::HeldBlob,
    here::{Missed, bring_piece, pieces},
    plan::Request,
    schedule::Wish,
    settle::Tries,
    sources::Blame,
    trip::{Trip, land, take_off},
};

/// Stored bytes after which a lane queues up again. One that no reader waits for does so after each request while any
/// reader waits.
const TURN_BYTES: u64 = 4 << 20;

/// What the lanes of a booking have in common.
///
/// However they end, on drop every chunk that is still the booking's is landed: nobody waits for lanes that are gone.
pub(crate) struct Queue {
    engine: Arc<Engine>,
    blob: HeldBlob,
    source: Arc<dyn RangeSource>,
    booking: BookingId,
    cause: Cause,
    requests: Vec<Request>,
    next: AtomicUsize,
    /// So many pieces have been read: whether it goes on.
    pieces: AtomicUsize,
    withdrawn: AtomicBool,
}

impl Queue {
    /// Brings `requests` for `booking` from `source`, which is here.
    pub fn bring(
        engine: &Arc<Engine>,
        blob: HeldBlob,
        source: Arc<dyn RangeSource>,
        booking: BookingId,
        cause: Cause,
        requests: Vec<Request>,
    ) {
        let lanes = engine.config.lanes().min(requests.len());
        let (next, pieces) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (engine, withdrawn) = (Arc::clone(engine), AtomicBool::new(false));
        let queue =
            Arc::new(Self { engine, blob, source, booking, cause, requests, next, pieces, withdrawn });
        for _ in 0..lanes {
            let lane = Arc::clone(&queue);
            queue.engine.handle.spawn(async move { lane.run().await });
        }
    }

    /// A lane: until the queue is empty, or the blob is withdrawn.
    async fn run(self: &Arc<Self>) {
        let object = self.blob.object();
        tokio::select! {
            biased;
            () = self.engine.tables.going(object) => self.withdrawn.store(true, Ordering::Relaxed),
            () = self.work() => {}
        }
    }

    async fn work(self: &Arc<Self>) {
        while !self.withdrawn.load(Ordering::Relaxed)
            && let Some(request) = self.requests.get(self.next.load(Ordering::Relaxed))
        {
            let _pass = self.engine.admission.admit(self.wish(request)).await;
            let _ = point(Site::OndemandAdmitted);
            let Some(permit) = self.permit().await else { return self.give_up() };
            let lane = Arc::clone(self);
            let turn = move || {
                let _permit = permit;
                lane.take_turn();
            };
            // After a panic in there the chunks are landed on drop.
            let mut turn = self.engine.handle.spawn_blocking(turn);
            let mut pieces = self.pieces.load(Ordering::Relaxed);
            while timeout(self.engine.config.stall, &mut turn).await.is_err() {
                let now = self.pieces.load(Ordering::Relaxed);
                if now == pieces && self.has_other() {
                    return self.give_up();
                }
                pieces = now;
            }
        }
    }

    /// Leave to read here; `None` when others hang in it and the bytes lie somewhere else, too.
    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        loop {
            match timeout(self.engine.config.stall, Arc::clone(&self.engine.lanes).acquire_owned()).await {
                // Never closed, so that the error cannot happen.
                Ok(permit) => return permit.ok(),
                Err(_) if self.has_other() => return None,
                Err(_) => {}
            }
        }
    }

    /// The file system hangs: everything that has not been brought is brought from elsewhere. The threads that are in it stay
    /// there.
    fn give_up(&self) {
        if !self.withdrawn.swap(true, Ordering::Relaxed) {
            self.requests.iter().for_each(|request| self.hand_over(request.chunks.clone()));
        }
    }

    fn wish(&self, request: &Request) -> Wish {
        let priority = self.cause.priority();
        let at_once_max = self.engine.config.lanes();
        Wish { blob: self.blob.object(), priority, bytes: request.stored.len(), at_once_max }
    }

    /// Brings requests until none is left, or others are to have a turn. Blocks.
    fn take_turn(&self) {
        let mut bytes = 0;
        while bytes < TURN_BYTES && !self.withdrawn.load(Ordering::Relaxed) {
            if bytes > 0 && self.stands_back() {
                return;
            }
            let Some(request) = self.requests.get(self.next.fetch_add(1, Ordering::Relaxed)) else { return };
            bytes += request.stored.len();
            for request in take_off(&self.engine, &self.blob, self.booking, self.cause, &request.chunks) {
                self.bring_request(&request);
            }
        }
    }

    /// Whether a reader waits, and for something else.
    fn stands_back(&self) -> bool {
        self.cause.priority() < Priority::Demand && self.engine.readers_waiting() > 0
    }

    fn bring_request(&self, request: &Request) {
        let (at, began) = (self.engine.now(), Instant::now());
        self.blob.counters().requests.add(1);
        let Some(here) = self.source.here() else { return };
        let tries = if self.has_other() { Tries::MoreToCome } else { Tries::Last };
        let mut ok = true;
        for piece in pieces(self.blob.table(), request.chunks.clone()) {
            if self.withdrawn.load(Ordering::Relaxed) {
                break;
            }
            let room = self.engine.lane_room.take(self.blob.table(), piece.clone());
            let _room = self.engine.handle.block_on(room);
            match bring_piece(&self.engine, &self.blob, here, self.booking, piece, tries) {
                Ok(all_are_present) => ok &= all_are_present,
                Err(missed) => {
                    ok = false;
                    self.miss(missed);
                }
            }
            self.pieces.fetch_add(1, Ordering::Relaxed);
        }
        self.engine.note_fill(&self.blob, request, self.cause, (at, began.elapsed()), ok);
    }

    /// Has another source bring what this one did not; where there is none, whoever waits is told.
    fn miss(&self, missed: Missed) {
        let Missed { chunks, error } = missed;
        match error {
            Some(error) if !self.has_other() => {
                let land = |number| land(&self.engine, &self.blob, self.booking, number, Err(error.clone()));
                return chunks.into_iter().for_each(land);
            }
            Some(error) => self.blob.set_last_error(&error),
            None => {}
        }
        let (Some(first), Some(last)) = (chunks.iter().min(), chunks.iter().max()) else { return };
        self.hand_over(*first..*last + 1);
    }

    /// Whether the bytes lie somewhere else, too.
    fn has_other(&self) -> bool {
        self.blob.sources().has_other(&self.source)
    }

    /// Has a trip bring those of `chunks` that this booking has not brought.
    fn hand_over(&self, chunks: Range<u32>) {
        self.blob.sources().pass_over(&self.source, Blame::Place);
        let mut flights = self.blob.flights();
        let booking = flights.open_booking();
        for number in chunks.clone() {
            flights.hand_over(number, self.booking, booking);
        }
        drop(flights);
        let (engine, blob) = (Arc::clone(&self.engine), self.blob.clone());
        self.engine.handle.spawn(Trip::new(engine, blob, booking, chunks, self.cause).run());
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let abandoned = || FillError::Abandoned { blob: Arc::clone(self.blob.name()) };
        let mut flights = self.blob.flights();
        for number in self.requests.iter().flat_map(|request| request.chunks.clone()) {
            flights.land(number, self.booking, Err(abandoned()));
        }
    }
}
