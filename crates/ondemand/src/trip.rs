//! [`Trip`]: one booking's run of neighbouring chunks, from the queue to the cache.

use std::{
    ops::Range,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{
    Blob, Cause, Engine, FillError,
    flight::BookingId,
    held::HeldBlob,
    inbox::Inbox,
    permit::LanePermit,
    plan::{Request, Shape, Wanted, plan},
    schedule::Wish,
    settle::{Arrived, Settled, Tries, settle},
    sources::{Blame, Blamed},
};
use bytes::{Bytes, BytesMut};
use futures_util::future::join;
use larder_faults::{Site, point};
use larder_remote::{BlobRange, RangeSource, ReadHere};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

/// Chunks that go to a decoding thread at once, so that small ones do not pay for the way there each.
const BATCH_CHUNKS_MAX: usize = 16;

/// A run of neighbouring chunks that one booking brings.
///
/// It runs as a task of its own, so that no reader's leaving ends it. However it ends, on drop every chunk that it
/// still holds is landed: nobody waits for a task that is gone.
pub(crate) struct Trip {
    engine: Arc<Engine>,
    blob: HeldBlob,
    booking: BookingId,
    chunks: Range<u32>,
    cause: Cause,
    /// Who is waited for only where nobody else has the bytes.
    asked_last: Option<Arc<dyn RangeSource>>,
}

impl Trip {
    pub fn new(
        engine: Arc<Engine>,
        blob: HeldBlob,
        booking: BookingId,
        chunks: Range<u32>,
        cause: Cause,
    ) -> Self {
        Self { engine, blob, booking, chunks, cause, asked_last: None }
    }

    /// The same, with `source` for when nobody elsewhere has the bytes.
    pub fn asking_last(mut self, source: &Arc<dyn RangeSource>) -> Self {
        self.asked_last = Some(Arc::clone(source));
        self
    }

    /// Starts the task that brings its chunks.
    pub fn set_out(self) {
        let handle = self.engine.handle.clone();
        handle.spawn(self.run());
    }

    /// Brings its chunks, unless the blob is withdrawn before.
    async fn run(self) {
        let object = self.blob.object();
        tokio::select! {
            biased;
            () = self.engine.tables.going(object) => {}
            () = self.bring() => {}
        }
    }

    /// Waits for its turn, then brings what nobody has overtaken meanwhile.
    async fn bring(&self) {
        let _pass = self.engine.admission.admit(self.wish()).await;
        let _ = point(Site::OndemandAdmitted);
        let shape = self.engine.shape(self.cause.priority());
        for request in take_off(&self.blob, self.booking, shape, &self.chunks) {
            self.fly(&request).await;
        }
    }

    fn wish(&self) -> Wish {
        let priority = self.cause.priority();
        let at_once_max = self.engine.config.at_once_max(priority);
        Wish { blob: self.blob.object(), priority, bytes: self.stored(&self.chunks).len(), at_once_max }
    }

    /// Brings a request from the first source, and what that does not give from the next.
    async fn fly(&self, request: &Request) {
        let (at, began) = (self.engine.now(), Instant::now());
        let mut flight = Flown {
            until: began + self.engine.config.deadline,
            rest: request.chunks.clone(),
            blamed: self.asked_last.iter().map(|source| Blame::Origin.on(source)).collect(),
            stalled: self.asked_last.clone(),
            failed: None,
            ok: true,
        };
        while let Some(source) = self.next_source(&mut flight) {
            self.fly_from(&source, &mut flight).await;
            if flight.rest.is_empty() || Instant::now() >= flight.until {
                break;
            }
        }
        let Flown { rest, failed, mut ok, .. } = flight;
        if let Some(error) = failed.filter(|_| !rest.is_empty()) {
            ok = false;
            self.fail(rest, &error);
        }
        self.engine.note_fill(&self.blob, request, self.cause, (at, began.elapsed()), ok);
    }

    /// The next source that nothing speaks against; at last the one that was given up because others might be quicker.
    fn next_source(&self, flight: &mut Flown) -> Option<Arc<dyn RangeSource>> {
        let wanted = |source: &Arc<dyn RangeSource>| !flight.blamed.iter().any(|blamed| blamed.is_on(source));
        self.blob.sources().find(wanted).or_else(|| flight.stalled.take())
    }

    /// Brings what is missing of a flight from `source`, as far as it has it.
    async fn fly_from(&self, source: &Arc<dyn RangeSource>, flight: &mut Flown) {
        let chunks = flight.rest.clone();
        let stored = self.stored(&chunks);
        self.blob.counters().requests.add(1);
        let (arrive, mut arrived) = mpsc::unbounded_channel();
        // Whoever is asked again is waited for until the end: there is nobody else.
        let may_stall = !flight.blamed.iter().any(|blamed| blamed.is_on(source));
        let stall = (may_stall && self.blob.sources().has_other(source)).then_some(self.engine.config.stall);
        let until = flight.until;
        let read = async move {
            // Not more than the request's bytes are ever in the channel, and the pass counts those.
            let mut sink = |bytes: Bytes| drop(arrive.send(bytes));
            self.read(source, stored, (until, stall), &mut sink).await
        };
        let (read, (unpacked, outcome)) = join(read, self.unpack(&chunks, &mut arrived)).await;
        flight.rest.start = unpacked;
        flight.ok &= outcome.ok;
        for number in outcome.refused {
            flight.ok &= self.fetch_again(source, number, until).await;
        }
        if unpacked == chunks.end {
            return;
        }
        let (error, blame) = match read {
            Ok(()) => (self.too_short(source, stored), Blame::Place),
            Err(NotRead::Stalled(error)) => {
                flight.stalled.get_or_insert_with(|| Arc::clone(source));
                (error, Blame::Origin)
            }
            Err(NotRead::Failed(error, blame)) => (error, blame),
        };
        self.blob.set_last_error(&error);
        self.blob.sources().pass_over(source, blame);
        flight.blamed.extend([Blame::Place.on(source), blame.on(source)]);
        // Readers learn of the place that should have had it, not of the last resort.
        flight.failed.get_or_insert(error);
    }

    /// Settles chunks as their bytes arrive. Returns the first chunk whose bytes did not come, and what came of those
    /// before it.
    async fn unpack(
        &self,
        chunks: &Range<u32>,
        arrived: &mut mpsc::UnboundedReceiver<Bytes>,
    ) -> (u32, Outcome) {
        let (mut next, mut cursor) = (chunks.start, self.stored(chunks).start());
        let (mut inbox, mut outcome) = (Inbox::default(), Outcome::default());
        while let Some(bytes) = arrived.recv().await {
            self.take_in(&mut inbox, bytes);
            while let Ok(bytes) = arrived.try_recv() {
                self.take_in(&mut inbox, bytes);
            }
            loop {
                let batch = self.cut(&mut inbox, &mut next, &mut cursor, chunks.end);
                if batch.is_empty() {
                    break;
                }
                outcome.add(self.settle(batch, Tries::MoreToCome).await);
            }
        }
        (next, outcome)
    }

    fn take_in(&self, inbox: &mut Inbox, bytes: Bytes) {
        self.blob.counters().fetched_bytes.add(bytes.len() as u64);
        inbox.push(bytes);
    }

    /// Cuts the chunks that have arrived whole out of the inbox.
    fn cut(&self, inbox: &mut Inbox, next: &mut u32, cursor: &mut u64, end: u32) -> Vec<Arrived> {
        let mut batch = Vec::new();
        while *next < end && batch.len() < BATCH_CHUNKS_MAX {
            let stored = self.blob.table().chunk(*next).stored;
            // Padding between chunks, if any, goes first.
            if *cursor < stored.start() && inbox.take(stored.start() - *cursor).is_none() {
                break;
            }
            *cursor = stored.start();
            let Some(bytes) = inbox.take(stored.len()) else { break };
            batch.push(Arrived { number: *next, bytes });
            *cursor = stored.end();
            *next += 1;
        }
        batch
    }

    /// Verifies, decodes, writes and lands a batch on a thread that may block.
    async fn settle(&self, batch: Vec<Arrived>, tries: Tries) -> Outcome {
        let (Some(first), Some(last)) = (batch.first(), batch.last()) else { return Outcome::default() };
        // Before the permit: whoever waits for room keeps no other from decoding.
        let room = self.engine.room.take(self.blob.table(), first.number..last.number + 1).await;
        // Never closed, so that the error cannot happen.
        let permit = Arc::clone(&self.engine.decoders).acquire_owned().await.ok();
        // A trip that is given up leaves this behind: whoever drops the blob waits for it too.
        let (engine, blob, booking) = (Arc::clone(&self.engine), self.blob.clone(), self.booking);
        let work = move || {
            let _held = (permit, room);
            let mut outcome = Outcome::default();
            for arrived in batch {
                let number = arrived.number;
                match settle(&blob, arrived, tries) {
                    Settled::Refused => outcome.refused.push(number),
                    Settled::Done(result) => {
                        outcome.ok &= result.is_ok();
                        land(&engine, &blob, booking, number, result);
                    }
                }
            }
            outcome
        };
        // After a panic in there the chunks are landed on drop.
        self.engine.handle.spawn_blocking(work).await.unwrap_or(Outcome { ok: false, refused: Vec::new() })
    }

    /// Fetches a chunk once more whose bytes were not the image's: from the other sources, and then from the one that lied,
    /// for a proxy's fault may be gone, too.
    async fn fetch_again(&self, lied: &Arc<dyn RangeSource>, number: u32, until: Instant) -> bool {
        let stored = self.blob.table().chunk(number).stored;
        self.blob.sources().pass_over(lied, Blame::Place);
        let mut blamed = vec![Blame::Place.on(lied)];
        let mut failed = None;
        loop {
            let wanted = |source: &Arc<dyn RangeSource>| !blamed.iter().any(|blamed| blamed.is_on(source));
            let other = self.blob.sources().find(wanted);
            let (source, tries) = match &other {
                Some(other) => (other, Tries::MoreToCome),
                None => (lied, Tries::Last),
            };
            self.blob.counters().requests.add(1);
            let stall = other.is_some().then_some(self.engine.config.stall);
            let mut bytes = BytesMut::new();
            let mut sink = |piece: Bytes| bytes.extend_from_slice(&piece);
            let read = self.read(source, stored, (until, stall), &mut sink).await;
            let blame = match read {
                Ok(()) => {
                    let bytes = bytes.freeze();
                    self.blob.counters().fetched_bytes.add(bytes.len() as u64);
                    let outcome = self.settle(vec![Arrived { number, bytes }], tries).await;
                    if outcome.refused.is_empty() {
                        return outcome.ok;
                    }
                    Blame::Place
                }
                Err(NotRead::Stalled(error)) => {
                    failed.get_or_insert(error);
                    Blame::Origin
                }
                Err(NotRead::Failed(error, blame)) => {
                    failed.get_or_insert(error);
                    blame
                }
            };
            if let (None, Some(error)) = (&other, &failed) {
                self.fail(number..number + 1, error);
                return false;
            }
            self.blob.sources().pass_over(source, blame);
            blamed.extend([Blame::Place.on(source), blame.on(source)]);
        }
    }

    fn fail(&self, chunks: Range<u32>, error: &FillError) {
        self.blob.set_last_error(error);
        for number in chunks {
            land(&self.engine, &self.blob, self.booking, number, Err(error.clone()));
        }
    }

    /// Reads a range from `source`, with the time it may take in all and, where others are to be asked rather than waited for,
    /// without a byte.
    async fn read(
        &self,
        source: &Arc<dyn RangeSource>,
        range: BlobRange,
        (until, stall): (Instant, Option<Duration>),
        sink: &mut (dyn FnMut(Bytes) + Send),
    ) -> Result<(), NotRead> {
        let began = Instant::now();
        let progress = AtomicU64::new(0);
        let mut noting = |bytes: Bytes| {
            progress.store(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
            sink(bytes);
        };
        let mut read = pin!(self.read_wherever(source, range, &mut noting));
        loop {
            let stalls_at = || {
                let last = began + Duration::from_millis(progress.load(Ordering::Relaxed));
                stall.map_or(until, |stall| until.min(last + stall))
            };
            let look_at = stalls_at();
            match timeout_at(look_at, &mut read).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => {
                    let blame = if error.is_transient() { Blame::Origin } else { Blame::Place };
                    return Err(NotRead::Failed(self.not_fetched(range, error), blame));
                }
                // Bytes have come meanwhile.
                Err(_) if stalls_at() > look_at => {}
                Err(_) => {
                    let (place, after) = (source.describe(), look_at.saturating_duration_since(began));
                    let error = larder_remote::Error::Timeout { place, range: range.to_string(), after };
                    let error = self.not_fetched(range, error);
                    let is_over = look_at >= until;
                    return Err(if is_over {
                        NotRead::Failed(error, Blame::Origin)
                    } else {
                        NotRead::Stalled(error)
                    });
                }
            }
        }
    }

    /// Reads a range. A source on this machine is read under a lane's permit, which is held until the read has ended: a file
    /// system that hangs may be given up, but not its thread.
    async fn read_wherever(
        &self,
        source: &Arc<dyn RangeSource>,
        range: BlobRange,
        sink: &mut (dyn FnMut(Bytes) + Send),
    ) -> Result<(), larder_remote::Error> {
        source.find().await?;
        let Some(file_system) = source.here().map(ReadHere::file_system) else {
            return source.read_stream(range, sink).await;
        };
        let permit = self.engine.lanes.take(file_system, self.cause.priority()).await;
        let here = Arc::clone(source);
        let read = self.engine.handle.spawn_blocking(move || {
            let came = || permit.iter().for_each(LanePermit::get_on);
            let read =
                here.here().map_or_else(|| Ok(Bytes::new()), |here| here.read_here(range, Vec::new(), &came));
            came();
            read
        });
        let read = read.await.unwrap_or_else(|stopped| {
            Err(larder_remote::Error::Io { place: source.describe(), source: std::io::Error::other(stopped) })
        });
        read.map(sink)
    }

    /// The source said it was done and was not.
    fn too_short(&self, source: &Arc<dyn RangeSource>, range: BlobRange) -> FillError {
        let place = source.describe();
        let (expected, found) = (range.len(), 0);
        self.not_fetched(
            range,
            larder_remote::Error::Length { place, range: range.to_string(), expected, found },
        )
    }

    fn not_fetched(&self, range: BlobRange, error: larder_remote::Error) -> FillError {
        FillError::Fetch { blob: Arc::clone(self.blob.name()), range, source: Arc::new(error) }
    }

    fn stored(&self, chunks: &Range<u32>) -> BlobRange {
        let (first, last) = (self.blob.table().chunk(chunks.start), self.blob.table().chunk(chunks.end - 1));
        BlobRange::new(first.stored.start(), last.stored.end()).unwrap_or(first.stored)
    }
}

/// Where a request is.
struct Flown {
    /// When it is given up.
    until: Instant,
    /// Chunks whose bytes have not come.
    rest: Range<u32>,
    /// Who need not be asked.
    blamed: Vec<Blamed>,
    /// The first source that was given up because others might be quicker, if nobody has been asked again.
    stalled: Option<Arc<dyn RangeSource>>,
    /// The first thing that went wrong.
    failed: Option<FillError>,
    /// Whether everything that has come is present.
    ok: bool,
}

/// Why a read has not given all that was asked for.
enum NotRead {
    /// Nothing came for a while.
    Stalled(FillError),
    /// It has failed, or its time is over.
    Failed(FillError, Blame),
}

/// What came of chunks whose bytes have come.
struct Outcome {
    /// Whether all that are done are present.
    ok: bool,
    /// Those that get another try.
    refused: Vec<u32>,
}

impl Default for Outcome {
    fn default() -> Self {
        Self { ok: true, refused: Vec::new() }
    }
}

impl Outcome {
    fn add(&mut self, other: Self) {
        self.ok &= other.ok;
        self.refused.extend(other.refused);
    }
}

impl Drop for Trip {
    fn drop(&mut self) {
        let abandoned = || FillError::Abandoned { blob: Arc::clone(self.blob.name()) };
        let mut flights = self.blob.flights();
        for number in self.chunks.clone() {
            flights.land(number, self.booking, Err(abandoned()));
        }
    }
}

/// Those of `chunks` that are still this booking's, as requests: one, unless something was taken out of the middle, or `shape` is
/// less than they are.
pub(crate) fn take_off(blob: &Blob, booking: BookingId, shape: Shape, chunks: &Range<u32>) -> Vec<Request> {
    let mut flights = blob.flights();
    let ours = chunks.clone().filter(|number| flights.take_off(*number, booking));
    let wanted = ours.map(|number| Wanted { number, stored: blob.table().chunk(number).stored });
    plan(wanted, shape)
}

pub(crate) fn land(
    engine: &Engine,
    blob: &Arc<Blob>,
    booking: BookingId,
    number: u32,
    result: Result<(), FillError>,
) {
    match &result {
        Ok(()) => blob.counters().chunks.add(1),
        Err(error) => blob.set_last_error(error),
    }
    blob.flights().land(number, booking, result);
    let _ = point(Site::OndemandLanded);
    if blob.has_just_become_complete() {
        engine.tell_complete(blob);
    }
}
