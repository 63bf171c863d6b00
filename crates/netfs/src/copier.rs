//! [`Copier`]: writes to the cache what was downloaded, behind the readers.

use std::collections::VecDeque;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use larder_faults::{Site, check};
use larder_fscache::Error;

use crate::Cached;
use crate::stats::{Stats, add};
use crate::window::Window;

/// How long a full cache is left alone.
const FULL_PAUSE: Duration = Duration::from_secs(1);
/// A write that takes longer makes the others leave: as long as they wait they keep memory that read-ahead needs.
const SLOW_AFTER: Duration = Duration::from_secs(1);

/// Writes to the cache what was downloaded, on a thread of its own. What does not fit into its queue, or would wait in it
/// for long, is left out: the reader has its bytes already, and the next one downloads them again.
#[derive(Debug)]
pub(crate) struct Copier {
    queue: Arc<Queue>,
    max: u64,
    stats: Arc<Stats>,
}

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<Waiting>,
    /// Told when there is something to do, or nothing will be any more.
    more: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    /// Bytes of all copies, with the one that is being made.
    bytes: u64,
    /// Since when one is being made.
    busy: Option<Instant>,
    /// Nothing more will be taken, or the thread is gone.
    is_closed: bool,
}

#[derive(Debug)]
enum Job {
    Copy(Copy),
    Flush(Sender<()>),
}

#[derive(Debug)]
struct Copy {
    cached: Arc<Cached>,
    window: Arc<Window>,
    at: u64,
    bytes: Bytes,
}

impl Copier {
    /// A copier with at most `max` bytes waiting; the limit `copy_bytes_max`.
    pub(crate) fn start(max: u64, stats: Arc<Stats>) -> std::io::Result<Self> {
        let queue = Arc::<Queue>::default();
        let worker = Worker { queue: Arc::clone(&queue), stats: Arc::clone(&stats), full: None };
        std::thread::Builder::new().name("netfs-copy".into()).spawn(move || worker.run())?;
        Ok(Self { queue, max, stats })
    }

    /// Takes bytes to be written at `at`, unless too many wait already, or those that do wait for too long.
    pub(crate) fn offer(&self, cached: &Arc<Cached>, window: &Arc<Window>, at: u64, bytes: &Bytes) {
        if cached.resources().is_none() {
            return;
        }
        let mut queue = self.queue.lock();
        if queue.is_closed {
            drop(queue);
            add(&self.stats.cache_writes_skipped, 1);
            return;
        }
        if queue.busy.is_some_and(|since| since.elapsed() > SLOW_AFTER) {
            let left_out = queue.leave_out();
            drop(queue);
            left_out.iter().for_each(|copy| copy.window.copy_ends());
            add(&self.stats.cache_writes_skipped, 1 + left_out.len() as u64);
            return;
        }
        let bytes_after = queue.bytes + bytes.len() as u64;
        if bytes_after > self.max {
            add(&self.stats.cache_writes_skipped, 1);
            return;
        }
        window.copy_begins();
        queue.bytes = bytes_after;
        let (cached, window) = (Arc::clone(cached), Arc::clone(window));
        queue.jobs.push_back(Job::Copy(Copy { cached, window, at, bytes: bytes.clone() }));
        drop(queue);
        self.queue.more.notify_one();
    }

    /// Returns when everything that was taken before has been dealt with.
    pub(crate) fn flush(&self) {
        let (done, wait) = channel();
        {
            let mut queue = self.queue.lock();
            if queue.is_closed {
                return;
            }
            queue.jobs.push_back(Job::Flush(done));
        }
        self.queue.more.notify_one();
        // An error means that the thread is gone, and with it whatever waited.
        let _ = wait.recv();
    }
}

impl Drop for Copier {
    fn drop(&mut self) {
        self.queue.lock().is_closed = true;
        self.queue.more.notify_one();
    }
}

impl Queue {
    /// The next job, when there is one; `None` when there will be none.
    fn next(&self) -> Option<Job> {
        let is_idle = |queue: &mut Waiting| queue.jobs.is_empty() && !queue.is_closed;
        let mut queue = self.more.wait_while(self.lock(), is_idle).unwrap_or_else(PoisonError::into_inner);
        let job = queue.jobs.pop_front()?;
        queue.busy = matches!(job, Job::Copy(_)).then(Instant::now);
        Some(job)
    }

    /// The copy of so many bytes has been made.
    fn is_through(&self, bytes: u64) {
        let mut queue = self.lock();
        queue.bytes = queue.bytes.checked_sub(bytes).expect("they were counted");
        queue.busy = None;
    }

    /// Whoever panics while it holds the lock leaves the state whole.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Takes out every copy that has not begun.
    fn leave_out(&mut self) -> Vec<Copy> {
        let (mut left_out, mut jobs) = (Vec::new(), VecDeque::new());
        for job in self.jobs.drain(..) {
            match job {
                Job::Copy(copy) => {
                    self.bytes -= copy.bytes.len() as u64;
                    left_out.push(copy);
                }
                flush @ Job::Flush(_) => jobs.push_back(flush),
            }
        }
        self.jobs = jobs;
        left_out
    }
}

/// Ends a copy, be it by a panic: its window may go.
struct CopyEnds(Arc<Window>);

impl Drop for CopyEnds {
    fn drop(&mut self) {
        self.0.copy_ends();
    }
}

/// Ends the queue with its thread, be it by a panic: nobody else would ever take what waits out of it.
struct End(Arc<Queue>);

impl Drop for End {
    fn drop(&mut self) {
        let jobs = {
            let mut queue = self.0.lock();
            (queue.is_closed, queue.busy, queue.bytes) = (true, None, 0);
            std::mem::take(&mut queue.jobs)
        };
        // Whoever waits for a flush hears of it by the end of its channel.
        for job in jobs {
            if let Job::Copy(copy) = job {
                copy.window.copy_ends();
            }
        }
    }
}

struct Worker {
    queue: Arc<Queue>,
    stats: Arc<Stats>,
    /// Since when the cache has no room.
    full: Option<Instant>,
}

impl Worker {
    fn run(mut self) {
        let _end = End(Arc::clone(&self.queue));
        while let Some(job) = self.queue.next() {
            match job {
                Job::Copy(Copy { cached, window, at, bytes }) => {
                    let ends = CopyEnds(window);
                    self.copy(&cached, at, &bytes);
                    drop(ends);
                    self.queue.is_through(bytes.len() as u64);
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
        if check(Site::NetfsCopyToCache).is_err() {
            add(&self.stats.cache_write_failures, 1);
            return;
        }
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc::RecvTimeoutError;

    use larder_fscache::ObjectRange;

    use super::*;
    use crate::budget::Budget;

    #[test]
    fn p4_nobody_waits_for_a_copier_that_has_panicked() {
        let window = Arc::new(Window::new(ObjectRange::at(0, 1), Budget::new(1).take(1)));
        let cached = Arc::new(Cached::none());
        let copy = || {
            window.copy_begins();
            let (cached, window) = (Arc::clone(&cached), Arc::clone(&window));
            Job::Copy(Copy { cached, window, at: 0, bytes: Bytes::from_static(b"x") })
        };
        let queue = Arc::<Queue>::default();
        let (done, flushed) = channel();
        // Not counted: taking the bytes off again panics, as any copy may.
        queue.lock().jobs.extend([copy(), copy(), Job::Flush(done)]);
        let stats = Arc::<Stats>::default();
        let worker = Worker { queue: Arc::clone(&queue), stats: Arc::clone(&stats), full: None };
        std::thread::spawn(move || worker.run()).join().expect_err("it panics");
        let minute = Duration::from_secs(60);
        assert_eq!(flushed.recv_timeout(minute), Err(RecvTimeoutError::Disconnected), "nothing was flushed");
        let copier = Copier { queue, max: 1, stats };
        let (returned, wait) = channel();
        std::thread::spawn(move || {
            copier.flush();
            returned.send(())
        });
        wait.recv_timeout(minute).expect("a flush returns");
        assert_eq!(window.copies(), 0, "the window may go");
    }
}
