//! [`Blob`]: one cookie, the chunk table that says what belongs in it, and the sources that have it.

use std::{
    fmt,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::SystemTime,
};

use larder_fscache::{CacheResources, Cookie, ObjectRange, Run};
use larder_image::ChunkTable;
use larder_remote::RangeSource;

use crate::{
    BlobStats, FillError, LastError,
    demand::Entered,
    flight::FlightTable,
    readahead::{Reach, Readahead, STREAMS_MAX},
    seam::{Seams, Whole},
    sources::Sources,
    stats::Counters,
};

/// One blob that is filled on demand.
pub struct Blob {
    name: Arc<str>,
    resources: CacheResources,
    table: Arc<ChunkTable>,
    sources: Sources,
    entered: OnceLock<Entered>,
    flights: Mutex<FlightTable>,
    seams: Mutex<Seams>,
    readahead: Mutex<Readahead>,
    /// A copy of the readahead's marks that a reader of present bytes can look at without a lock.
    marks: [AtomicU64; STREAMS_MAX],
    counters: Counters,
    last_error: Mutex<Option<LastError>>,
    completion_told: AtomicBool,
}

impl Blob {
    /// Binds an operation on a cookie to what belongs in it and to whoever has it. `name` is for reports and messages.
    ///
    /// # Panics
    ///
    /// When `resources` and `table` differ in size: the cookie was acquired for another table.
    pub fn new(
        name: impl Into<Arc<str>>,
        resources: CacheResources,
        table: Arc<ChunkTable>,
        source: Arc<dyn RangeSource>,
    ) -> Arc<Self> {
        let size = resources.size();
        assert_eq!(size, table.decoded_size(), "the cookie was acquired for another chunk table");
        let block = resources.block_size();
        let blob = Self {
            name: name.into(),
            table,
            sources: Sources::new(source),
            entered: OnceLock::new(),
            flights: Mutex::default(),
            seams: Mutex::new(Seams::new(block, size)),
            readahead: Mutex::new(Readahead::new(size)),
            marks: std::array::from_fn(|_| AtomicU64::new(u64::MAX)),
            counters: Counters::default(),
            last_error: Mutex::default(),
            completion_told: AtomicBool::new(resources.is_complete()),
            resources,
        };
        Arc::new(blob)
    }

    /// The name given to [`Blob::new`].
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The cookie that is filled.
    pub fn cookie(&self) -> &Arc<Cookie> {
        self.resources.cookie()
    }

    /// The operation on the cookie through which it is asked, filled and read.
    pub fn resources(&self) -> &CacheResources {
        &self.resources
    }

    /// What belongs in the cookie.
    pub fn table(&self) -> &Arc<ChunkTable> {
        &self.table
    }

    /// What neighbouring chunks hold: from the first one's start to the last one's end.
    pub(crate) fn decoded(&self, chunks: &Range<u32>) -> ObjectRange {
        let (first, last) = (self.table.chunk(chunks.start), self.table.chunk(chunks.end - 1));
        ObjectRange::new(first.decoded.start(), last.decoded.end()).unwrap_or(first.decoded)
    }

    pub(crate) fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Length of the decoded blob in bytes.
    pub fn size(&self) -> u64 {
        self.resources.size()
    }

    /// Whether every byte is present.
    pub fn is_complete(&self) -> bool {
        self.resources.is_complete()
    }

    /// What the blob has cost so far.
    pub fn stats(&self) -> BlobStats {
        self.counters.read()
    }

    /// The last thing that went wrong, if anything did.
    pub fn last_error(&self) -> Option<LastError> {
        lock(&self.last_error).clone()
    }

    /// Chunks being brought right now, queued ones included.
    pub fn flights_in_hand(&self) -> usize {
        self.flights().len()
    }

    /// Whether a read of `range`, whose bytes are present, should be told to [`crate::Engine::touch`]. Takes no lock.
    pub fn is_marked(&self, range: ObjectRange) -> bool {
        let hit = |mark: &AtomicU64| (range.start()..range.end()).contains(&mark.load(Ordering::Relaxed));
        self.marks.iter().any(hit)
    }

    pub(crate) fn entered(&self) -> &OnceLock<Entered> {
        &self.entered
    }

    /// Its object's number in the tables, for traces; 0 before its first fault.
    pub(crate) fn object_number(&self) -> u64 {
        self.entered.get().map_or(0, |entered| entered.object().get())
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(crate) fn flights(&self) -> MutexGuard<'_, FlightTable> {
        lock(&self.flights)
    }

    /// Takes note of a read; returns what to bring ahead of the next.
    ///
    /// What counts are whole chunks: the rest of a chunk is there once a byte of it was wanted, so that a sequential
    /// reader is next heard of at the chunk after it.
    pub(crate) fn note_read(&self, range: ObjectRange, reach: Reach) -> Option<ObjectRange> {
        if reach.bytes_max == 0 {
            return None;
        }
        let range = self.whole_chunks(range);
        let mut readahead = lock(&self.readahead);
        let ahead = readahead.read(range, reach);
        for (shown, mark) in self.marks.iter().zip(readahead.marks()) {
            shown.store(mark, Ordering::Relaxed);
        }
        ahead
    }

    /// Cuts `want` at the object's end and widens it to whole blocks, the unit of presence.
    pub(crate) fn whole_blocks(&self, want: ObjectRange) -> ObjectRange {
        let block = self.resources.block_size();
        let want = want.clamp_to(self.size());
        if want.is_empty() {
            return want;
        }
        let start = block.round_down(want.start());
        let end = block.round_up(want.end()).unwrap_or(u64::MAX).min(self.size());
        ObjectRange::at(start, end - start)
    }

    fn whole_chunks(&self, range: ObjectRange) -> ObjectRange {
        let chunks = self.table.covering(range);
        if chunks.is_empty() {
            return range;
        }
        let (first, last) = (self.table.chunk(chunks.start), self.table.chunk(chunks.end - 1));
        ObjectRange::new(first.decoded.start(), last.decoded.end()).unwrap_or(range)
    }

    /// The chunks that have to be brought so that `want`, which is made of whole blocks, is present; ascending.
    ///
    /// The answer holds only while the caller keeps the flight table locked.
    pub(crate) fn missing(&self, want: ObjectRange) -> Vec<u32> {
        let mut missing = Vec::new();
        let mut at = want.start();
        while at < want.end() {
            let rest = ObjectRange::at(at, want.end() - at);
            let (run, is_hole) = match self.resources.object().probe_within(rest) {
                Run::Present { until } => (until, false),
                Run::Hole { until } => (until, true),
            };
            let until = run.clamp(at + 1, want.end());
            if is_hole {
                self.missing_in(at, until, &mut missing);
            }
            at = until;
        }
        missing
    }

    /// Adds the chunks of the hole `start..end`, except those of which all that is missing waits in a seam.
    fn missing_in(&self, start: u64, end: u64, missing: &mut Vec<u32>) {
        let Some(hole) = ObjectRange::new(start, end) else { return };
        for number in self.table.covering(hole) {
            let chunk = self.table.chunk(number).decoded;
            if missing.last() != Some(&number) && !self.waits_in_seams(hole, chunk) {
                missing.push(number);
            }
        }
    }

    fn waits_in_seams(&self, hole: ObjectRange, chunk: ObjectRange) -> bool {
        let block = self.resources.block_size();
        let seams = lock(&self.seams);
        if seams.is_empty() {
            return false;
        }
        let mut at = block.round_down(hole.start().max(chunk.start()));
        let end = hole.end().min(chunk.end());
        while at < end {
            if !seams.holds(chunk, at) {
                return false;
            }
            at = at.saturating_add(block.bytes());
        }
        true
    }

    /// Takes in a verified chunk; returns what can be written now.
    pub(crate) fn join_seams(&self, at: u64, bytes: &bytes::Bytes) -> Vec<Whole> {
        lock(&self.seams).add(at, bytes)
    }

    /// Whether the blob has just become complete: true once in its life.
    pub(crate) fn has_just_become_complete(&self) -> bool {
        self.is_complete() && !self.completion_told.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn set_last_error(&self, error: &FillError) {
        *lock(&self.last_error) = Some(LastError { at: SystemTime::now(), message: error.chain() });
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blob").field("name", &self.name).field("size", &self.size()).finish_non_exhaustive()
    }
}

/// Locks; a panic elsewhere leaves these plain tables in order.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
