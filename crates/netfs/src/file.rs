//! [`File`]: one version of one remote file.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use larder_fscache::ObjectRange;

use crate::issue::Job;
use crate::stats::add;
use crate::window::{Gathered, Window};
use crate::{Cached, Error, Netfs, Plan, Readahead, Source};

/// Windows of one file kept after they are finished, for readers that come late.
const FINISHED_WINDOWS_MAX: usize = 4;
/// How often a read may find that what it waited for has been taken away again.
const ROUNDS_MAX: usize = 8;

/// One version of one remote file: its source, its place in the cache, and what is under way.
pub struct File {
    shared: Arc<Netfs>,
    source: Arc<dyn Source>,
    name: String,
    size: u64,
    cached: Arc<Cached>,
    under_way: Mutex<UnderWay>,
    last_request: AtomicU64,
}

struct UnderWay {
    readahead: Readahead,
    windows: Vec<Arc<Window>>,
}

/// Bytes of a file: in order, in as many pieces as they came.
pub type Read = Vec<Bytes>;

/// What can be said of a read now.
enum Step {
    Ready(Read),
    Failed(Error),
    Waits(Arc<Window>),
    Missing(ObjectRange),
}

impl File {
    pub(crate) fn new(shared: Arc<Netfs>, source: Arc<dyn Source>, size: u64, cached: Cached) -> Self {
        let limits = &shared.limits;
        let granule = limits.granule_bytes.max(cached.block_bytes());
        let readahead = Readahead::new(granule, limits.window_bytes.0, limits.window_bytes.1);
        let under_way = Mutex::new(UnderWay { readahead, windows: Vec::new() });
        let name = source.describe();
        let last_request = AtomicU64::new(0);
        Self { shared, source, name, size, cached: Arc::new(cached), under_way, last_request }
    }

    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What it has in the cache.
    pub fn cached(&self) -> &Cached {
        &self.cached
    }

    /// Reads up to `len` bytes from `at` if they are here: from memory as they are, from the cache into `buf`, which
    /// then has them all. `None` when any are missing. Blocks on nothing but local files.
    pub fn read_now(self: &Arc<Self>, at: u64, len: usize, buf: &mut Vec<u8>) -> Option<Read> {
        buf.clear();
        let want = ObjectRange::at(at, len as u64).clamp_to(self.size);
        if want.is_empty() {
            return Some(Vec::new());
        }
        let found = self.gather_windows(want).or_else(|| self.read_cached_into(want, buf))?;
        add(&self.shared.stats.read_hits, 1);
        self.go_on(want);
        Some(found)
    }

    /// Reads up to `len` bytes from `at`, downloading what is missing: fewer only at the end of the file.
    ///
    /// # Errors
    ///
    /// Any [`Error`]; the next read tries again.
    pub async fn read(self: &Arc<Self>, at: u64, len: usize) -> Result<Read, Error> {
        let want = ObjectRange::at(at, len as u64).clamp_to(self.size);
        tracing::debug!(
            file = self.name,
            start = want.start(),
            len = want.len(),
            i_size = self.size,
            "netfs_read"
        );
        add(&self.shared.stats.read_waits, 1);
        let result = self.read_range(want).await;
        if let Err(error) = &result {
            add(&self.shared.stats.read_failures, 1);
            if matches!(error, Error::Stale { .. }) {
                add(&self.shared.stats.stale, 1);
            }
        }
        result
    }

    async fn read_range(self: &Arc<Self>, want: ObjectRange) -> Result<Read, Error> {
        let mut held = Vec::new();
        // As many windows as there are granules may be under way already.
        let granules = usize::try_from(want.len() / self.shared.limits.granule_bytes).unwrap_or(usize::MAX);
        for _ in 0..granules.saturating_add(ROUNDS_MAX) {
            let window = match self.step(want, &held) {
                Step::Ready(pieces) => {
                    self.go_on(want);
                    return Ok(pieces);
                }
                Step::Failed(error) => return Err(error),
                Step::Waits(window) => window,
                Step::Missing(missing) => self.begin(missing),
            };
            self.wait(want, &window, &mut held).await;
        }
        Err(Error::Abandoned { file: self.name.clone(), range: want })
    }

    /// Waits until `window` has what it is to bring of `want`, or will not bring it.
    async fn wait(&self, want: ObjectRange, window: &Arc<Window>, held: &mut Vec<Arc<Window>>) {
        let part = overlap(want, window.range());
        held.push(Arc::clone(window));
        loop {
            let mut changed = std::pin::pin!(window.changed().notified());
            changed.as_mut().enable();
            if window.is_unlocked(part) {
                return;
            }
            changed.await;
        }
    }

    fn step(&self, want: ObjectRange, held: &[Arc<Window>]) -> Step {
        let (mut pieces, mut at) = (Vec::new(), want.start());
        while at < want.end() {
            let rest = ObjectRange::at(at, want.end() - at);
            let Some(window) = self.window_at(at, held) else {
                match self.read_cached(rest) {
                    Some((piece, end)) => {
                        pieces.push(piece);
                        at = end;
                        continue;
                    }
                    None => return Step::Missing(rest),
                }
            };
            let part = overlap(rest, window.range());
            match window.gather(part, &mut pieces) {
                Gathered::Ready => at = part.end(),
                Gathered::Failed(error) => {
                    self.drop_spent();
                    if held.iter().any(|held| Arc::ptr_eq(held, &window)) {
                        return Step::Failed(error);
                    }
                    // It failed for an earlier read, and only goes on for others: this one tries again.
                    self.lock().windows.retain(|other| !Arc::ptr_eq(other, &window));
                }
                Gathered::Waits => return Step::Waits(window),
            }
        }
        self.drop_spent();
        Step::Ready(pieces)
    }

    fn window_at(&self, at: u64, held: &[Arc<Window>]) -> Option<Arc<Window>> {
        let covers = |window: &&Arc<Window>| window.covers(at);
        let here = held.iter().rev().find(covers).cloned();
        here.or_else(|| self.lock().windows.iter().rev().find(covers).cloned())
    }

    /// Everything of `want` from the windows, where it is there.
    fn gather_windows(&self, want: ObjectRange) -> Option<Read> {
        if self.lock().windows.is_empty() {
            return None;
        }
        let (mut pieces, mut at) = (Vec::new(), want.start());
        while at < want.end() {
            let window = self.window_at(at, &[])?;
            let part = overlap(ObjectRange::at(at, want.end() - at), window.range());
            match window.gather(part, &mut pieces) {
                Gathered::Ready => at = part.end(),
                Gathered::Failed(_) | Gathered::Waits => return None,
            }
        }
        self.drop_spent();
        Some(pieces)
    }

    /// Everything of `want` from the cache, where it is there.
    fn read_cached_into(&self, want: ObjectRange, buf: &mut Vec<u8>) -> Option<Read> {
        if !self.cached.has(want) {
            return None;
        }
        let len = usize::try_from(want.len()).ok()?;
        buf.resize(len, 0);
        match self.cached.read(want.start(), buf) {
            Some(read) if read == len => Some(Vec::new()),
            // It was here a moment ago, or the disk fails: the request machine finds another way.
            _ => {
                buf.clear();
                None
            }
        }
    }

    /// What the cache has from the start of `want` on, and where that ends.
    fn read_cached(&self, want: ObjectRange) -> Option<(Bytes, u64)> {
        let mut bytes = Vec::new();
        self.read_cached_into(want, &mut bytes)?;
        Some((bytes.into(), want.end()))
    }

    /// Begins a request for what is missing, unless one is under way by now.
    fn begin(self: &Arc<Self>, missing: ObjectRange) -> Arc<Window> {
        let mut under_way = self.lock();
        if let Some(window) = under_way.windows.iter().rev().find(|window| window.covers(missing.start())) {
            return Arc::clone(window);
        }
        let Plan { range } = under_way.readahead.miss(missing, self.size);
        let range = self.cached.expand_readahead(range, self.size);
        let range = under_way.leave_out(range, missing.start());
        under_way.make_room();
        let (range, share) = match self.shared.share_for_readahead(range) {
            Some(share) => (range, share),
            None => {
                let range = under_way.leave_out(self.whole_blocks(missing), missing.start());
                (range, self.shared.share_for_reader(range))
            }
        };
        self.start(&mut under_way, Window::new(range, share))
    }

    /// Begins the next window when a reader comes near to the end of the last.
    fn go_on(self: &Arc<Self>, want: ObjectRange) {
        let mut under_way = self.lock();
        let Some(Plan { range }) = under_way.readahead.hit(want, self.size) else { return };
        if under_way.windows.iter().any(|window| window.covers(range.start())) || self.cached.has(range) {
            return;
        }
        let range = under_way.leave_out(range, range.start());
        under_way.make_room();
        if let Some(share) = self.shared.share_for_readahead(range) {
            add(&self.shared.stats.readahead, 1);
            self.start(&mut under_way, Window::new(range, share));
        }
    }

    fn start(self: &Arc<Self>, under_way: &mut UnderWay, window: Window) -> Arc<Window> {
        let window = Arc::new(window);
        under_way.windows.push(Arc::clone(&window));
        let request = self.last_request.fetch_add(1, Ordering::Relaxed) + 1;
        let job = Job {
            name: self.name.clone(),
            source: Arc::clone(&self.source),
            cached: Arc::clone(&self.cached),
            shared: Arc::clone(&self.shared),
            window: Arc::clone(&window),
            request,
        };
        self.shared.runtime.spawn(job.drive());
        window
    }

    /// The blocks that a range touches: only whole ones can be kept.
    fn whole_blocks(&self, range: ObjectRange) -> ObjectRange {
        let block = self.cached.block_bytes();
        let (start, end) = (range.start() - range.start() % block, range.end().next_multiple_of(block));
        ObjectRange::at(start, end - start).clamp_to(self.size)
    }

    fn drop_spent(&self) {
        self.lock().windows.retain(|window| !window.is_spent());
    }

    /// Drops what is finished, whoever may still want it; leaves a file alone that is being worked on.
    pub(crate) fn drop_finished(&self) {
        if let Ok(mut under_way) = self.under_way.try_lock() {
            under_way.windows.retain(|window| !window.is_at_rest());
        }
    }

    /// Nothing panics while it holds the lock, and what it guards is sound at any moment.
    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.shared.closed();
    }
}

impl UnderWay {
    /// The part of `range` around `at` that no window brings already.
    fn leave_out(&self, range: ObjectRange, at: u64) -> ObjectRange {
        let ranges = || self.windows.iter().map(|window| window.range());
        let start = ranges().map(|other| other.end()).filter(|end| *end <= at).fold(range.start(), u64::max);
        let end = ranges().map(|other| other.start()).filter(|start| *start > at).fold(range.end(), u64::min);
        ObjectRange::at(start, end - start)
    }

    /// Keeps only the newest of what is finished.
    fn make_room(&mut self) {
        let mut finished = self.windows.iter().filter(|window| window.is_at_rest()).count();
        self.windows.retain(|window| {
            let goes = finished >= FINISHED_WINDOWS_MAX && window.is_at_rest();
            finished -= usize::from(goes);
            !goes
        });
    }
}

fn overlap(want: ObjectRange, window: ObjectRange) -> ObjectRange {
    let (start, end) = (want.start().max(window.start()), want.end().min(window.end()));
    ObjectRange::at(start, end.saturating_sub(start))
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File").field("name", &self.name).field("size", &self.size).finish_non_exhaustive()
    }
}
