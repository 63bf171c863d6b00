//! The threads of a check: inodes come in, go to whoever is free, and are gone through.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use super::Options;
use super::fault::Faults;
use super::seen::Seen;
use super::tree::Found;
use crate::{DeviceId, Image, Inode, MetaSource};

/// A file is gone through in pieces of at least so many bytes, so that one large file keeps all threads busy.
const PIECE_BYTES_MIN: u64 = 32 << 20;
/// A file has at most so many pieces, whatever size it claims.
const PIECES_MAX: u64 = 256;
/// Jobs handed over together: taking the lock for each would cost more than small files do.
const BATCH: usize = 32;
/// Batches under way, for each thread.
const QUEUE: usize = 4;

/// What every thread of a check needs.
pub(super) struct Work<'a> {
    pub image: &'a Image,
    pub devices: &'a [Arc<dyn MetaSource>],
    pub options: &'a Options<'a>,
    pub faults: &'a Faults,
    pub seen: Seen,
    /// Lengths of the devices, which may cost a system call to ask for; the primary one comes first.
    lens: Vec<u64>,
    done: AtomicU64,
    stored: AtomicU64,
}

/// A piece of an inode to be gone through.
#[derive(Clone, Copy, Debug)]
pub(super) struct Job {
    pub inode: Inode,
    /// Extents that begin from here on ...
    pub start: u64,
    /// ... and before here.
    pub end: u64,
}

impl<'a> Work<'a> {
    pub fn new(
        image: &'a Image,
        devices: &'a [Arc<dyn MetaSource>],
        options: &'a Options<'a>,
        faults: &'a Faults,
    ) -> Self {
        let (done, stored) = (AtomicU64::new(0), AtomicU64::new(0));
        let lens = std::iter::once(image.source_len()).chain(devices.iter().map(|device| device.len()));
        let (lens, seen) = (lens.collect(), Seen::default());
        Self { image, devices, options, faults, seen, lens, done, stored }
    }

    /// Length of a device in bytes; 0 for one that is not there.
    pub fn device_len(&self, device: DeviceId) -> u64 {
        self.lens.get(usize::from(device.get())).copied().unwrap_or(0)
    }

    /// Counts bytes of contents that were gone through, and what they take.
    pub fn advance(&self, bytes: u64, stored: u64) {
        self.stored.fetch_add(stored, Ordering::Relaxed);
        let before = self.done.fetch_add(bytes, Ordering::Relaxed);
        if let Some(progress) = self.options.progress {
            progress(before.saturating_add(bytes));
        }
    }

    pub fn stored_bytes(&self) -> u64 {
        self.stored.load(Ordering::Relaxed)
    }
}

/// Runs `walk` here, and what it sends on the other threads. Returns when everything was gone through.
pub(super) fn run(work: &Work<'_>, walk: impl FnOnce(&mut dyn FnMut(Inode)) -> Found) -> Found {
    let jobs = work.options.jobs.get();
    let (sender, receiver) = sync_channel(jobs * QUEUE);
    let receiver = Arc::new(Mutex::new(receiver));
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            let receiver = Arc::clone(&receiver);
            scope.spawn(move || {
                let mut buffer = Vec::new();
                while let Some(batch) = next(&receiver) {
                    batch.iter().for_each(|job| work.go_through(job, &mut buffer));
                }
            });
        }
        // Theirs alone: when all of them have panicked, sending fails and does not wait for ever.
        drop(receiver);
        let mut batches = Batches { sender, batch: Vec::with_capacity(BATCH) };
        let found = walk(&mut |inode| batches.add(inode));
        batches.flush();
        found
    })
}

fn next(receiver: &Mutex<Receiver<Vec<Job>>>) -> Option<Vec<Job>> {
    receiver.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

/// Gathers jobs for the threads.
struct Batches {
    sender: SyncSender<Vec<Job>>,
    batch: Vec<Job>,
}

impl Batches {
    fn add(&mut self, inode: Inode) {
        let piece = PIECE_BYTES_MIN.max(inode.size.div_ceil(PIECES_MAX));
        let mut start = 0_u64;
        loop {
            let end = start.saturating_add(piece).min(inode.size);
            self.batch.push(Job { inode, start, end });
            let whole = end >= inode.size;
            // Pieces of large files go at once, so that they do not end up on one thread.
            if self.batch.len() >= BATCH || !whole {
                self.flush();
            }
            if whole {
                return;
            }
            start = end;
        }
    }

    fn flush(&mut self) {
        if !self.batch.is_empty() {
            // The receiver lives as long as the threads, and they outlive the sender.
            let _ = self.sender.send(std::mem::replace(&mut self.batch, Vec::with_capacity(BATCH)));
        }
    }
}
