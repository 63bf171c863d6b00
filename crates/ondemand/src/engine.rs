//! [`Engine`]: from a hole to verified bytes.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use larder_faults::{Site, point};
use larder_fscache::ObjectRange;
use tokio::{
    runtime::Handle,
    sync::{Semaphore, watch},
    time::{Instant, timeout},
};
use tracing::{Instrument, Span, debug, trace_span, warn};

use crate::{
    Blob, Cause, EngineConfig, FaultRecord, FillError, FillRecord,
    admission::Admission,
    blob::lock,
    cause::{PerPriority, Priority},
    demand::{EngineTables, Entered},
    flight::{Booked, Ticket},
    lane::Queue,
    permit::Lanes,
    plan::{Request, Shape, Wanted, plan},
    record::Ring,
    room::DecodingRoom,
    trip::Trip,
};

/// Times that a fill looks again: readahead that it had joined may fail, a shared block's first half may be lost.
const ROUNDS_MAX: usize = 3;

/// Readers that may wait while bytes are brought around a read on the chance that they will be wanted.
const AROUND_READERS_MAX: usize = 2;

type OnComplete = Box<dyn Fn(&Arc<Blob>) + Send + Sync>;

/// Fills holes, for any number of blobs.
pub struct Engine {
    pub(crate) handle: Handle,
    pub(crate) config: EngineConfig,
    pub(crate) admission: Arc<Admission>,
    pub(crate) tables: Arc<EngineTables>,
    pub(crate) decoders: Arc<Semaphore>,
    /// Apart from the decoders: a file system that hangs takes these and no others.
    pub(crate) lanes: Lanes,
    pub(crate) room: DecodingRoom,
    shapes: PerPriority<Shape>,
    started: Instant,
    faults: Mutex<Ring<FaultRecord>>,
    fills: Mutex<Ring<FillRecord>>,
    /// What prefetch stands back for.
    urgent: watch::Sender<Urgent>,
    on_complete: Mutex<Vec<Arc<OnComplete>>>,
}

impl Engine {
    /// Makes an engine that works on the runtime of `handle`.
    pub fn new(handle: Handle, config: EngineConfig) -> Arc<Self> {
        let _entered = handle.enter();
        Arc::new(Self {
            admission: Admission::new(&config),
            tables: EngineTables::new(config.tables),
            decoders: Arc::new(Semaphore::new(config.decoders.get())),
            lanes: Lanes::new(&config),
            room: DecodingRoom::new(),
            shapes: config.shapes(),
            started: Instant::now(),
            faults: Mutex::new(Ring::new(config.records_max)),
            fills: Mutex::new(Ring::new(config.records_max)),
            urgent: watch::Sender::new(Urgent::default()),
            on_complete: Mutex::default(),
            handle: handle.clone(),
            config,
        })
    }

    /// The runtime that fills run on.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Brings every chunk that `want` needs, and returns once they are present.
    ///
    /// What lies beyond the object is not wanted. The caller then decides again; a second miss is an error (DESIGN.md,
    /// section 2). Dropping the future leaves the fetch to others who wait for it. Must be polled on the engine's
    /// runtime.
    ///
    /// # Errors
    ///
    /// Any [`FillError`]. None of them lasts: the next fill tries again.
    pub async fn fill(
        self: &Arc<Self>,
        blob: &Arc<Blob>,
        want: ObjectRange,
        cause: Cause,
    ) -> Result<(), FillError> {
        let span = question(blob, want, cause);
        self.fill_inside(blob, want, cause).instrument(span).await
    }

    async fn fill_inside(
        self: &Arc<Self>,
        blob: &Arc<Blob>,
        want: ObjectRange,
        cause: Cause,
    ) -> Result<(), FillError> {
        let want = blob.whole_blocks(want);
        let _waits = Waits::new(self, cause);
        let until = Instant::now() + self.config.deadline;
        let mut at = want.start();
        while at < want.end() {
            let window = ObjectRange::at(at, self.window_bytes(blob).max(1)).clamp_to(want.end());
            let window = blob.whole_blocks(window);
            self.fill_window(blob, window, cause, until).await?;
            at = window.end();
        }
        Ok(())
    }

    /// [`Engine::fill`] for callers that are no futures: `done` is called on the engine's runtime and must not block.
    ///
    /// The blob is let go before, and a withdrawal waits until `done` has returned.
    pub fn spawn_fill(
        self: &Arc<Self>,
        blob: &Arc<Blob>,
        want: ObjectRange,
        cause: Cause,
        done: impl FnOnce(Result<(), FillError>) + Send + 'static,
    ) {
        let (engine, span) = (Arc::clone(self), question(blob, want, cause));
        let held = self.hold(blob).inspect_err(|error| {
            self.note_fault(blob, want, cause, self.now(), &Err(error.clone()));
        });
        let answered = async move {
            match held {
                Ok(held) => {
                    let result = engine.fill_inside(&held, want, cause).await;
                    let _hold = held.without_blob();
                    done(result);
                }
                Err(error) => done(Err(error)),
            }
        };
        self.handle.spawn(answered.instrument(span));
    }

    /// Brings `range` at leisure: after every waiting reader and behind all readahead and profiles. Dropping the future
    /// stops it after the request on the wire.
    ///
    /// # Errors
    ///
    /// The first [`FillError`]; what was brought until then stays.
    pub async fn prefetch(self: &Arc<Self>, blob: &Arc<Blob>, range: ObjectRange) -> Result<(), FillError> {
        self.at_leisure(blob, range, Cause::Prefetch).await
    }

    /// Brings the ranges of a recorded access profile, in its order: behind readers and their readahead, before any
    /// prefetch. Readers may wait meanwhile: it is for a start, when somebody nearly always does.
    ///
    /// # Errors
    ///
    /// The first [`FillError`]; what was brought until then stays.
    pub async fn prefetch_profile(
        self: &Arc<Self>,
        blob: &Arc<Blob>,
        ranges: impl IntoIterator<Item = ObjectRange>,
    ) -> Result<(), FillError> {
        let _waits = Waits::new(self, Cause::Profile);
        for range in ranges {
            self.at_leisure(blob, range, Cause::Profile).await?;
        }
        Ok(())
    }

    async fn at_leisure(
        self: &Arc<Self>,
        blob: &Arc<Blob>,
        range: ObjectRange,
        cause: Cause,
    ) -> Result<(), FillError> {
        let range = blob.whole_blocks(range);
        let piece_bytes = self.piece_bytes(blob, cause);
        let mut at = range.start();
        while at < range.end() {
            if cause == Cause::Prefetch {
                self.quiet().await;
            }
            let piece = ObjectRange::at(at, piece_bytes.max(1)).clamp_to(range.end());
            let piece = blob.whole_blocks(piece);
            let tickets = self.book(blob, piece, cause)?;
            self.see_through(blob, piece, cause, tickets).await?;
            at = piece.end();
        }
        Ok(())
    }

    /// A fill of more than this is done piece by piece. What is on this machine takes so little time that the pause between
    /// two windows would be a part of it.
    fn window_bytes(&self, blob: &Blob) -> u64 {
        match blob.source().here() {
            Some(_) => self.config.here_window_bytes_max,
            None => self.config.window_bytes_max,
        }
    }

    /// As much as may be on the wire at once: what is booked ahead could only wait.
    fn piece_bytes(&self, blob: &Blob, cause: Cause) -> u64 {
        match cause {
            _ if blob.source().here().is_some() => self.window_bytes(blob),
            Cause::Profile => {
                let requests = u64::try_from(self.config.profile_requests_per_blob).unwrap_or(1);
                self.config.ahead_request_bytes_max.saturating_mul(requests)
            }
            _ => self.config.ahead_request_bytes_max,
        }
    }

    /// Takes note of a read of present bytes, so that readahead goes on for a reader that never misses. Cheap unless
    /// the read passes a mark; never blocks on I/O.
    pub fn touch(self: &Arc<Self>, blob: &Arc<Blob>, range: ObjectRange) {
        if blob.is_marked(range) {
            self.read_ahead(blob, range);
        }
    }

    /// Calls `told` once for each blob that becomes complete from now on, after its last bytes are written. It runs on
    /// a thread that may block for a moment.
    pub fn on_complete(&self, told: impl Fn(&Arc<Blob>) + Send + Sync + 'static) {
        lock(&self.on_complete).push(Arc::new(Box::new(told)));
    }

    /// The newest readers that met a hole, oldest first.
    pub fn faults(&self) -> Vec<FaultRecord> {
        lock(&self.faults).to_vec()
    }

    /// The newest range requests, oldest first.
    pub fn fills(&self) -> Vec<FillRecord> {
        lock(&self.fills).to_vec()
    }

    /// Time since the engine's start: the clock of its records.
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Questions in the tables: of readers who wait, and of those who have left while somebody works for them.
    pub fn questions(&self) -> usize {
        self.tables.step(|tables| tables.len())
    }

    /// Blobs in the tables: each from its first fault until nobody has it any more.
    pub fn objects(&self) -> usize {
        self.tables.step(|tables| tables.objects())
    }

    /// Readers that wait right now.
    pub fn readers_waiting(&self) -> usize {
        self.urgent.borrow().readers
    }

    /// Takes note of a request that went out at a time since the engine's start, and took so long.
    pub(crate) fn note_fill(
        &self,
        blob: &Blob,
        request: &Request,
        cause: Cause,
        (at, took): (Duration, Duration),
        ok: bool,
    ) {
        let range = blob.decoded(&request.chunks);
        debug!(blob = %blob.name(), start = range.start(), len = range.len(), stored = request.stored.len(),
            cause = cause.as_str(), ?took, ok, "filled");
        let (blob, stored) = (Arc::clone(blob.name()), request.stored);
        lock(&self.fills).push(FillRecord { at, blob, range, stored, cause, took, ok });
    }

    pub(crate) fn tell_complete(&self, blob: &Arc<Blob>) {
        let told = lock(&self.on_complete).clone();
        debug!(blob = %blob.name(), "blob is complete");
        for call in told {
            call(blob);
        }
    }

    async fn fill_window(
        self: &Arc<Self>,
        blob: &Arc<Blob>,
        want: ObjectRange,
        cause: Cause,
        until: Instant,
    ) -> Result<(), FillError> {
        let Cause::Demand { pid } = cause else {
            let tickets = self.book(blob, want, cause)?;
            return self.see_through(blob, want, cause, tickets).await;
        };
        if blob.missing(want).is_empty() {
            return Ok(());
        }
        let at = self.now();
        let result = self.demand(blob, want, pid, until).await;
        self.note_fault(blob, want, cause, at, &result);
        result
    }

    /// Takes note of a reader's wait that began at `at` and is over.
    fn note_fault(
        &self,
        blob: &Blob,
        range: ObjectRange,
        cause: Cause,
        at: Duration,
        result: &Result<(), FillError>,
    ) {
        let Cause::Demand { pid } = cause else { return };
        blob.counters().faults.add(1);
        if let Err(error) = result {
            blob.counters().failed_faults.add(1);
            blob.set_last_error(error);
            warn!(blob = %blob.name(), start = range.start(), len = range.len(), error = %error.chain(), "fault failed");
        }
        let (blob, waited, ok) = (Arc::clone(blob.name()), self.now().saturating_sub(at), result.is_ok());
        lock(&self.faults).push(FaultRecord { at, blob, range, waited, pid, ok });
    }

    /// Waits for the flights, within the deadline, and looks again until nothing is missing.
    async fn see_through(
        self: &Arc<Self>,
        blob: &Arc<Blob>,
        want: ObjectRange,
        cause: Cause,
        tickets: Vec<Ticket>,
    ) -> Result<(), FillError> {
        let rounds = self.rounds(blob, want, cause, tickets);
        let result = match timeout(self.config.deadline, rounds).await {
            Ok(result) => result,
            Err(_) => {
                let blob = Arc::clone(blob.name());
                Err(FillError::Deadline { blob, range: want, after: self.config.deadline })
            }
        };
        if let Err(error) = &result {
            blob.set_last_error(error);
        }
        result
    }

    pub(crate) async fn rounds(
        self: &Arc<Self>,
        blob: &Arc<Blob>,
        want: ObjectRange,
        cause: Cause,
        mut tickets: Vec<Ticket>,
    ) -> Result<(), FillError> {
        for _ in 0..ROUNDS_MAX {
            if blob.source().here().is_some()
                && let Some(last) = tickets.last_mut()
            {
                // The others have landed by then, or are about to: to be woken for each chunk would take longer than it.
                last.wait().await;
            }
            for ticket in tickets {
                let Some(landing) = ticket.landed().await else {
                    return Err(FillError::Abandoned { blob: Arc::clone(blob.name()) });
                };
                if landing.priority >= cause.priority() {
                    landing.result?;
                }
            }
            tickets = self.book(blob, want, cause)?;
            if tickets.is_empty() {
                return Ok(());
            }
        }
        Err(FillError::StillMissing { blob: Arc::clone(blob.name()), range: want })
    }

    /// Joins or starts the flights that `want` needs.
    ///
    /// Probing and booking are one step under the flight table's lock: see [`crate::flight`].
    pub(crate) fn book(
        self: &Arc<Self>,
        blob: &Arc<Blob>,
        want: ObjectRange,
        cause: Cause,
    ) -> Result<Vec<Ticket>, FillError> {
        // Until the last trip of this booking has ended.
        let held = self.hold(blob)?;
        let priority = cause.priority();
        let (mut tickets, mut mine) = (Vec::new(), Vec::new());
        let mut flights = blob.flights();
        let booking = flights.open_booking();
        for number in blob.missing(want) {
            match flights.book(number, booking, priority) {
                Booked::Joined(ticket) => tickets.push(ticket),
                Booked::Mine(ticket) => {
                    tickets.push(ticket);
                    mine.push(Wanted { number, stored: blob.table().chunk(number).stored });
                }
            }
        }
        drop(flights);
        let _ = point(Site::OndemandBooked);
        let source = blob.source();
        if source.here().is_some() {
            let wanted = mine.iter().map(|wanted| wanted.stored.len()).sum();
            let requests = plan(mine, self.config.here_shape(wanted));
            Queue::bring(self, held, source, booking, cause, requests);
            return Ok(tickets);
        }
        for request in plan(mine, self.shape(priority)) {
            Trip::new(Arc::clone(self), held.clone(), booking, request.chunks, cause).set_out();
        }
        Ok(tickets)
    }

    pub(crate) fn read_ahead(self: &Arc<Self>, blob: &Arc<Blob>, range: ObjectRange) {
        let mut reach = self.config.reach();
        if self.readers_waiting() > AROUND_READERS_MAX {
            // Side by side they hide the round trips themselves: what is left to save is the link.
            reach.around_bytes = 0;
        }
        if let Some(ahead) = blob.note_read(range, reach)
            && !self.has_too_much_ahead(blob)
        {
            // Refused for a blob that is going: its readers are told elsewhere.
            let _ = self.book(blob, blob.whole_blocks(ahead), Cause::Readahead);
        }
    }

    fn has_too_much_ahead(&self, blob: &Blob) -> bool {
        let queued = |entered: &Entered| self.admission.queued(entered.object(), Priority::Readahead);
        blob.entered().get().map_or(0, queued) >= self.config.readahead_queued_per_blob_max
    }

    pub(crate) fn shape(&self, priority: Priority) -> Shape {
        *self.shapes.of(priority)
    }

    /// Waits until no reader waits and no profile is being brought.
    async fn quiet(&self) {
        // The sender lives in self, so that the channel cannot be closed.
        let _ = self.urgent.subscribe().wait_for(|urgent| *urgent == Urgent::default()).await;
    }
}

/// The span of a reader's question, from its arrival to its answer; none for what nobody waits for.
fn question(blob: &Blob, want: ObjectRange, cause: Cause) -> Span {
    match cause {
        Cause::Demand { pid } => {
            trace_span!("question", blob = %blob.name(), start = want.start(), len = want.len(), pid)
        }
        _ => Span::none(),
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("config", &self.config).finish_non_exhaustive()
    }
}

/// What is under way that prefetch stands back for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Urgent {
    readers: usize,
    profiles: usize,
}

impl Urgent {
    fn count(&mut self, cause: Cause) -> Option<&mut usize> {
        match cause {
            Cause::Demand { .. } => Some(&mut self.readers),
            Cause::Profile => Some(&mut self.profiles),
            Cause::Readahead | Cause::Prefetch => None,
        }
    }
}

/// Counts a reader while it waits, and a profile while it is brought.
struct Waits<'a>(&'a Engine, Cause);

impl<'a> Waits<'a> {
    fn new(engine: &'a Engine, cause: Cause) -> Self {
        engine.urgent.send_if_modified(|urgent| urgent.count(cause).map(|count| *count += 1).is_some());
        Self(engine, cause)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.urgent.send_if_modified(|urgent| urgent.count(self.1).map(|count| *count -= 1).is_some());
    }
}
