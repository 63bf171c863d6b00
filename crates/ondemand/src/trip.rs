//! [`Trip`]: one booking's run of neighbouring chunks, from the queue to the cache.

use std::{ops::Range, sync::Arc};

use crate::{
    Blob, Cause, Engine, FillError,
    flight::BookingId,
    held::HeldBlob,
    inbox::Inbox,
    plan::{Request, Wanted, plan},
    schedule::Wish,
    settle::{Arrived, Settled, Tries, settle},
};
use bytes::Bytes;
use futures_util::future::join;
use larder_faults::{Site, point};
use larder_remote::{BlobRange, RangeSource};
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
}

impl Trip {
    pub fn new(
        engine: Arc<Engine>,
        blob: HeldBlob,
        booking: BookingId,
        chunks: Range<u32>,
        cause: Cause,
    ) -> Self {
        Self { engine, blob, booking, chunks, cause }
    }

    /// Brings its chunks, unless the blob is withdrawn before.
    pub async fn run(self) {
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
        for request in take_off(&self.engine, &self.blob, self.booking, self.cause, &self.chunks) {
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
        let until = began + self.engine.config.deadline;
        let (mut rest, mut ok, mut failed) = (request.chunks.clone(), true, None);
        let sources = self.blob.sources().all();
        for (source, left) in sources.iter().zip((1..=sources.len()).rev()) {
            // One that hangs leaves the others their part of the time.
            let now = Instant::now();
            let part = (until - now) / u32::try_from(left).unwrap_or(u32::MAX);
            let (next, is_ok, error) = self.fly_from(source, rest.clone(), now + part).await;
            rest.start = next;
            ok &= is_ok;
            let Some(error) = error else { break };
            self.blob.set_last_error(&error);
            self.blob.sources().pass_over(source);
            // Readers learn of the place that should have had it, not of the last resort.
            failed.get_or_insert(error);
        }
        if let Some(error) = failed.filter(|_| !rest.is_empty()) {
            ok = false;
            self.fail(rest, &error);
        }
        self.engine.note_fill(&self.blob, request, self.cause, (at, began.elapsed()), ok);
    }

    /// Brings neighbouring chunks from `source`. Returns the first whose bytes did not come and why, and whether those
    /// before it are present.
    async fn fly_from(
        &self,
        source: &Arc<dyn RangeSource>,
        chunks: Range<u32>,
        until: Instant,
    ) -> (u32, bool, Option<FillError>) {
        let stored = self.stored(&chunks);
        self.blob.counters().requests.add(1);
        let (arrive, mut arrived) = mpsc::unbounded_channel();
        let read = async move {
            // Not more than the request's bytes are ever in the channel, and the pass counts those.
            let mut sink = |bytes: Bytes| drop(arrive.send(bytes));
            self.within(source, until, stored, source.read_stream(stored, &mut sink)).await
        };
        let (read, (unpacked, outcome)) = join(read, self.unpack(&chunks, &mut arrived)).await;
        let mut ok = outcome.ok;
        for number in outcome.refused {
            ok &= self.fetch_again(source, number).await;
        }
        let error = (unpacked < chunks.end).then(|| match read {
            Err(error) => error,
            Ok(()) => self.too_short(source, stored),
        });
        (unpacked, ok, error)
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

    /// Fetches a chunk once more whose bytes were not the image's: from another source, where there is one; a proxy's fault
    /// may be gone, too.
    async fn fetch_again(&self, lied: &Arc<dyn RangeSource>, number: u32) -> bool {
        self.blob.sources().pass_over(lied);
        let source = self.blob.source();
        let stored = self.blob.table().chunk(number).stored;
        self.blob.counters().requests.add(1);
        let until = Instant::now() + self.engine.config.deadline;
        match self.within(&source, until, stored, source.read_range(stored)).await {
            Ok(bytes) => {
                self.blob.counters().fetched_bytes.add(bytes.len() as u64);
                self.settle(vec![Arrived { number, bytes }], Tries::Last).await.ok
            }
            Err(error) => {
                self.fail(number..number + 1, &error);
                false
            }
        }
    }

    fn fail(&self, chunks: Range<u32>, error: &FillError) {
        self.blob.set_last_error(error);
        for number in chunks {
            land(&self.engine, &self.blob, self.booking, number, Err(error.clone()));
        }
    }

    /// Puts a read under the deadline and gives its error a place.
    async fn within<T>(
        &self,
        source: &Arc<dyn RangeSource>,
        until: Instant,
        range: BlobRange,
        read: impl Future<Output = Result<T, larder_remote::Error>>,
    ) -> Result<T, FillError> {
        let error = match timeout_at(until, read).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => error,
            Err(_) => larder_remote::Error::Timeout {
                place: source.describe(),
                range: range.to_string(),
                after: self.engine.config.deadline,
            },
        };
        Err(self.not_fetched(range, error))
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

/// Those of `chunks` that are still this booking's, as requests: one, unless something was taken out of the middle.
pub(crate) fn take_off(
    engine: &Engine,
    blob: &Blob,
    booking: BookingId,
    cause: Cause,
    chunks: &Range<u32>,
) -> Vec<Request> {
    let mut flights = blob.flights();
    let ours = chunks.clone().filter(|number| flights.take_off(*number, booking));
    let wanted = ours.map(|number| Wanted { number, stored: blob.table().chunk(number).stored });
    plan(wanted, engine.shape(cause.priority()))
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
