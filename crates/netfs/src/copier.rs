//! [`Copier`]: writes to the cache what was downloaded, behind the readers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use larder_fscache::Error;

use crate::Cached;
use crate::stats::{Stats, add};
use crate::window::Window;

/// How long a full cache is left alone.
const FULL_PAUSE: Duration = Duration::from_secs(1);

/// Writes to the cache what was downloaded, on a thread of its own. What does not fit into its queue is left out: the
/// reader has its bytes already, and the next one downloads them again.
#[derive(Debug)]
pub(crate) struct Copier {
    jobs: Mutex<Sender<Job>>,
    queued: Arc<AtomicU64>,
    max: u64,
    stats: Arc<Stats>,
}

enum Job {
    Copy { cached: Arc<Cached>, window: Arc<Window>, at: u64, bytes: Bytes },
    Flush(Sender<()>),
}

impl Copier {
    /// A copier with at most `max` bytes waiting; the limit `copy_bytes_max`.
    pub(crate) fn start(max: u64, stats: Arc<Stats>) -> std::io::Result<Self> {
        let (jobs, receiver) = channel();
        let queued = Arc::<AtomicU64>::default();
        let worker = Worker { queued: Arc::clone(&queued), stats: Arc::clone(&stats), full: None };
        std::thread::Builder::new().name("netfs-copy".into()).spawn(move || worker.run(&receiver))?;
        Ok(Self { jobs: Mutex::new(jobs), queued, max, stats })
    }

    /// Takes bytes to be written at `at`, unless too many wait already.
    pub(crate) fn offer(&self, cached: &Arc<Cached>, window: &Arc<Window>, at: u64, bytes: &Bytes) {
        if cached.resources().is_none() {
            return;
        }
        let len = bytes.len() as u64;
        if self.queued.fetch_add(len, Ordering::AcqRel) + len > self.max {
            self.queued.fetch_sub(len, Ordering::AcqRel);
            add(&self.stats.cache_writes_skipped, 1);
            return;
        }
        window.copy_begins();
        let (cached, window) = (Arc::clone(cached), Arc::clone(window));
        self.send(Job::Copy { cached, window, at, bytes: bytes.clone() });
    }

    /// Returns when everything that was taken before has been dealt with.
    pub(crate) fn flush(&self) {
        let (done, wait) = channel();
        self.send(Job::Flush(done));
        // An error means that the thread is gone, and with it whatever waited.
        let _ = wait.recv();
    }

    fn send(&self, job: Job) {
        // The thread ends only after this sender is gone.
        drop(self.jobs.lock().unwrap_or_else(PoisonError::into_inner).send(job));
    }
}

struct Worker {
    queued: Arc<AtomicU64>,
    stats: Arc<Stats>,
    /// Since when the cache has no room.
    full: Option<Instant>,
}

impl Worker {
    fn run(mut self, jobs: &Receiver<Job>) {
        while let Ok(job) = jobs.recv() {
            match job {
                Job::Copy { cached, window, at, bytes } => {
                    self.copy(&cached, at, &bytes);
                    window.copy_ends();
                    self.queued.fetch_sub(bytes.len() as u64, Ordering::AcqRel);
                }
                Job::Flush(done) => drop(done.send(())),
            }
        }
    }

    fn copy(&mut self, cached: &Cached, at: u64, bytes: &[u8]) {
        if self.full.is_some_and(|since| since.elapsed() < FULL_PAUSE) {
            add(&self.stats.cache_writes_skipped, 1);
            return;
        }
        self.full = None;
        add(&self.stats.cache_writes, 1);
        match cached.write(at, bytes) {
            Ok(()) => add(&self.stats.cache_write_successes, 1),
            Err(error) => {
                add(&self.stats.cache_write_failures, 1);
                if matches!(error, Error::NoSpace { .. }) {
                    self.full = Some(Instant::now());
                }
                tracing::debug!(start = at, len = bytes.len(), %error, what = "write", "netfs_failure");
            }
        }
    }
}
