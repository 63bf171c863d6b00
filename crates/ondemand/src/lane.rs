//! [`Queue`]: the requests of one booking whose stored bytes lie on this machine, and the lanes that bring them.
//!
//! Such a request takes a fraction of a millisecond, which the ways through the runtime would double. So a booking sends
//! out not a task for each request but as many lanes as the processors can use, and a lane brings one request after the other
//! on a thread that may block, until none is left or it is time to let others have a turn.

use std::{
    ops::Range,
    pin::pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use larder_faults::{Site, point};
use larder_image::ChunkTable;
use larder_remote::{RangeSource, ReadHere};
use tokio::{runtime::Handle, time::timeout};

use crate::{
    Cause, Engine, EngineConfig, FillError,
    admission::Pass,
    cause::Priority,
    flight::BookingId,
    held::HeldBlob,
    here::{Missed, Piece, bring_piece, pieces},
    permit::LanePermit,
    plan::{Request, Wanted, plan},
    schedule::Wish,
    settle::Tries,
    sources::Blame,
    trip::{Trip, land, take_off},
};

/// Stored bytes after which a lane queues up again if anybody waits who is as urgent. One that no reader waits for does so after each
/// request while any reader waits.
const TURN_BYTES: u64 = 4 << 20;

/// The same for whoever waits, however little urgent.
const LONG_TURN_BYTES: u64 = 16 << 20;

/// Stalls after which nobody waits any longer for leave to read in a file system that is only busy, where the bytes lie
/// somewhere else, too.
const BUSY_STALLS_MAX: u32 = 3;

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
    /// How often bytes have come, and pieces were settled: whether it goes on.
    steps: AtomicUsize,
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
        let (next, steps) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (engine, withdrawn) = (Arc::clone(engine), AtomicBool::new(false));
        let queue = Arc::new(Self { engine, blob, source, booking, cause, requests, next, steps, withdrawn });
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
        while !self.is_withdrawn()
            && let Some(request) = self.requests.get(self.next.load(Ordering::Relaxed))
        {
            let Some(file_system) = self.source.here().map(ReadHere::file_system) else {
                return self.give_up();
            };
            let mut pass = Some(self.engine.admission.admit(self.wish(request)).await);
            let _ = point(Site::OndemandAdmitted);
            let own = || self.steps.load(Ordering::Relaxed);
            let steps = own();
            let permit = match self.permit(&mut pass, file_system).await {
                Ok(permit) => permit,
                Err(NoPermit::Hangs) => return self.give_up(),
                // Where other lanes get on, what is left is theirs.
                Err(NoPermit::Busy) if own() != steps => return,
                Err(NoPermit::Busy) if self.has_other() => return self.stand_aside(),
                Err(NoPermit::Busy) => return self.fail_rest(),
            };
            let thread = LaneThread::new(self, permit);
            // After a panic in there the chunks are landed on drop.
            let turn = self.engine.handle.spawn_blocking(move || thread.take_turn());
            if self.unless_it_hangs(&mut pass, own, turn).await.is_none() {
                return self.give_up();
            }
        }
    }

    /// Waits for leave to read, as long as a reader waits; less long where the bytes lie somewhere else, too.
    async fn permit(&self, pass: &mut Option<Pass>, file_system: u64) -> Result<LanePermit, NoPermit> {
        let EngineConfig { deadline, stall, .. } = self.engine.config;
        let priority = self.cause.priority();
        // Others may be read there for long: only a file system where nobody gets on hangs.
        let all = || self.engine.lanes.steps(file_system);
        let mut permit = pin!(self.unless_it_hangs(pass, all, self.engine.lanes.take(file_system, priority)));
        let patience = deadline.min(BUSY_STALLS_MAX * stall);
        let mut waited = timeout(patience, &mut permit).await;
        if waited.is_err() && !self.has_other() {
            waited = timeout(deadline - patience, permit).await;
        }
        waited.map_err(|_| NoPermit::Busy)?.flatten().ok_or(NoPermit::Hangs)
    }

    /// Waits for `done`; `None` when the file system hangs, for `count` does not grow, and the bytes lie somewhere else, too. Where
    /// they do not, the pass is given back: what is not on its way keeps nobody else from it.
    async fn unless_it_hangs<T>(
        &self,
        pass: &mut Option<Pass>,
        count: impl Fn() -> usize,
        done: impl Future<Output = T>,
    ) -> Option<T> {
        let mut done = pin!(done);
        let mut steps = count();
        loop {
            if let Ok(done) = timeout(self.engine.config.stall, &mut done).await {
                return Some(done);
            }
            let now = count();
            if now == steps {
                if self.is_withdrawn() || self.has_other() {
                    return None;
                }
                *pass = None;
            }
            steps = now;
        }
    }

    /// The file system hangs: it is asked last from now on, and everything that has not been brought is brought from elsewhere. The
    /// threads that are in it stay there.
    fn give_up(&self) {
        if !self.withdrawn.swap(true, Ordering::Relaxed) {
            self.blob.sources().pass_over(&self.source, Blame::Place);
            let trips = self.requests.iter().flat_map(|request| self.hand_over(request.chunks.clone()));
            trips.for_each(Trip::set_out);
        }
    }

    /// The file system is too busy for these requests: they are brought from elsewhere. The next ones are its own again.
    fn stand_aside(&self) {
        if !self.withdrawn.swap(true, Ordering::Relaxed) {
            let trips = self.requests.iter().flat_map(|request| self.hand_over(request.chunks.clone()));
            trips.for_each(|trip| trip.asking_last(&self.source).set_out());
        }
    }

    /// Others hang here, and nobody else has the bytes: what no lane has taken has failed, and the next read tries again.
    fn fail_rest(&self) {
        let next = self.next.swap(self.requests.len(), Ordering::Relaxed);
        for request in self.requests.iter().skip(next) {
            let (place, range) = (self.source.describe(), request.stored);
            let after = self.engine.config.deadline;
            let timeout = larder_remote::Error::Timeout { place, range: range.to_string(), after };
            let (blob, source) = (Arc::clone(self.blob.name()), Arc::new(timeout));
            let error = FillError::Fetch { blob, range, source };
            let fail = |number| land(&self.engine, &self.blob, self.booking, number, Err(error.clone()));
            request.chunks.clone().for_each(fail);
        }
    }

    fn wish(&self, request: &Request) -> Wish {
        let priority = self.cause.priority();
        let EngineConfig { ahead_request_bytes_max, .. } = self.engine.config;
        // Nothing of it is on the wire: larger requests leave no less of that to others.
        let bytes = request.stored.len().min(ahead_request_bytes_max);
        let at_once_max = self.engine.config.lanes();
        Wish { blob: self.blob.object(), priority, bytes, at_once_max }
    }

    /// The next request that is still this booking's, as its stored bytes and what is left of it.
    fn take_next(&self) -> Option<(u64, Vec<Request>)> {
        let request = self.requests.get(self.next.fetch_add(1, Ordering::Relaxed))?;
        // It is cut already.
        let shape = self.engine.config.here_shape(u64::MAX);
        let left = take_off(&self.blob, self.booking, shape, &request.chunks);
        self.blob.counters().requests.add(left.len() as u64);
        Some((request.stored.len(), left))
    }

    /// Whether a reader waits, and for something else.
    fn stands_back(&self) -> bool {
        self.cause.priority() < Priority::Demand && self.engine.readers_waiting() > 0
    }

    /// Settles what was read; whether all of it is present now.
    fn settle(&self, piece: Piece) -> bool {
        let tries = if self.has_other() { Tries::MoreToCome } else { Tries::Last };
        let brought = bring_piece(&self.engine, &self.blob, self.booking, piece, tries);
        let all_are_present = brought.unwrap_or_else(|missed| {
            self.miss(missed);
            false
        });
        self.get_on();
        all_are_present
    }

    fn get_on(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    fn note_fill(&self, request: &Request, took: Duration, ok: bool) {
        let at = self.engine.now().saturating_sub(took);
        self.engine.note_fill(&self.blob, request, self.cause, (at, took), ok);
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
        self.blob.sources().pass_over(&self.source, Blame::Place);
        self.hand_over(*first..*last + 1).into_iter().for_each(Trip::set_out);
    }

    fn is_withdrawn(&self) -> bool {
        self.withdrawn.load(Ordering::Relaxed)
    }

    /// Whether the bytes lie somewhere else, too.
    fn has_other(&self) -> bool {
        self.blob.sources().has_other(&self.source)
    }

    /// Trips that bring those of `chunks` that this booking has not brought, side by side.
    fn hand_over(&self, chunks: Range<u32>) -> Vec<Trip> {
        let wanted = chunks.map(|number| Wanted { number, stored: self.blob.table().chunk(number).stored });
        let requests = plan(wanted, self.engine.shape(self.cause.priority()));
        requests.into_iter().map(|request| self.hand_over_one(request.chunks)).collect()
    }

    fn hand_over_one(&self, chunks: Range<u32>) -> Trip {
        let mut flights = self.blob.flights();
        let booking = flights.open_booking();
        for number in chunks.clone() {
            flights.hand_over(number, self.booking, booking);
        }
        drop(flights);
        let (engine, blob) = (Arc::clone(&self.engine), self.blob.clone());
        Trip::new(engine, blob, booking, chunks, self.cause)
    }
}

/// Why there is no leave to read.
enum NoPermit {
    /// Nobody gets on in the file system.
    Hangs,
    /// Somebody may, but it has taken too long.
    Busy,
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

/// The thread of a lane for one turn.
///
/// It may hang in a read for as long as the file system pleases. Meanwhile it has its source, and nothing of the blob or of its cache
/// object: who gives the lane up, or withdraws the blob, does not wait for it, and what it reads then is dropped.
struct LaneThread {
    queue: Weak<Queue>,
    source: Arc<dyn RangeSource>,
    table: Arc<ChunkTable>,
    runtime: Handle,
    permit: LanePermit,
}

impl LaneThread {
    fn new(queue: &Arc<Queue>, permit: LanePermit) -> Self {
        let (source, table) = (Arc::clone(&queue.source), Arc::clone(queue.blob.table()));
        Self { queue: Arc::downgrade(queue), source, table, runtime: queue.engine.handle.clone(), permit }
    }

    /// Its queue, unless that has been given up.
    fn queue(&self) -> Option<Arc<Queue>> {
        self.queue.upgrade().filter(|queue| !queue.is_withdrawn())
    }

    /// Bytes have come.
    fn get_on(&self) {
        self.permit.get_on();
        if let Some(queue) = self.queue() {
            queue.get_on();
        }
    }

    /// Brings requests until none is left, or others are to have a turn. Blocks.
    fn take_turn(self) {
        let mut bytes = 0;
        while let Some(queue) = self.queue().filter(|queue| self.goes_on(queue, bytes))
            && let Some((stored, requests)) = queue.take_next()
        {
            drop(queue);
            bytes += stored;
            requests.iter().for_each(|request| self.bring(request));
        }
    }

    /// Whether the turn goes on after so many bytes.
    fn goes_on(&self, queue: &Queue, bytes: u64) -> bool {
        let least = if bytes < LONG_TURN_BYTES { queue.cause.priority() } else { Priority::Prefetch };
        let is_wanted = || self.permit.is_wanted(least) || queue.engine.admission.is_wanted(least);
        bytes == 0 || !queue.stands_back() && (bytes < TURN_BYTES || !is_wanted())
    }

    fn bring(&self, request: &Request) {
        let Some(here) = self.source.here() else { return };
        let began = Instant::now();
        let mut ok = true;
        for chunks in pieces(&self.table, request.chunks.clone()) {
            let room = self.permit.room().take(&self.table, chunks.clone());
            let _room = self.runtime.block_on(room);
            let piece = Piece::read(here, &self.table, chunks, &|| self.get_on());
            self.permit.get_on();
            let Some(queue) = self.queue() else { return };
            ok &= queue.settle(piece);
        }
        if let Some(queue) = self.queue() {
            queue.note_fill(request, began.elapsed(), ok);
        }
    }
}
