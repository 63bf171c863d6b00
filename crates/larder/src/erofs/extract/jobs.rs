//! [`Jobs`]: what is to be made and filled, and by which thread.

use std::num::NonZero;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use larder_erofs::{FileType, Inode};

use super::copy::Buffer;
use super::dir::Dir;
use super::file::OpenFile;
use super::large::{Large, PIECE_BYTES, UnderWay};
use super::node;

/// Jobs that wait for each thread. Each holds its directory open.
const QUEUE: usize = 8;

/// Something for a thread to do.
pub(super) enum Job<'a> {
    /// Makes regular files, fills them, and makes what is neither file nor directory.
    Objects(Arc<Dir<'a>>, Vec<(Vec<u8>, Inode)>),
    /// Fills a file that is there.
    Fill(Arc<Large<'a>>),
}

impl<'a> Job<'a> {
    fn run(self, buffer: &mut Buffer) {
        match self {
            Self::Objects(dir, objects) => {
                for (name, inode) in objects {
                    object(&dir, name, inode, buffer);
                }
            }
            Self::Fill(large) => large.fill(buffer),
        }
    }

    /// Does one piece of a file, or all objects; returns the rest, if there is one.
    fn begin(self, buffer: &mut Buffer) -> Option<Self> {
        match self {
            Self::Fill(large) => large.fill_piece(buffer).then_some(Self::Fill(large)),
            Self::Objects(..) => {
                self.run(buffer);
                None
            }
        }
    }
}

fn object<'a>(dir: &Arc<Dir<'a>>, name: Vec<u8>, inode: Inode, buffer: &mut Buffer) {
    if inode.kind != FileType::Regular {
        return node::make(dir, &name, &inode);
    }
    match OpenFile::make(Arc::clone(dir), name, inode) {
        Ok(file) => file.fill(0, inode.size, buffer),
        Err((dir, name, errno)) => dir.failed(&name, format_args!("cannot be made: {errno}")),
    }
}

/// Where jobs are taken from.
#[derive(Clone)]
pub(super) struct Jobs<'a> {
    waiting: Arc<Mutex<Receiver<Job<'a>>>>,
    under_way: Arc<UnderWay<'a>>,
}

/// Where jobs are put: by one thread, which does some of them itself.
pub(super) struct Queue<'a> {
    sender: SyncSender<Job<'a>>,
    under_way: Arc<UnderWay<'a>>,
}

impl<'a> Jobs<'a> {
    /// For `threads` in all, that which puts them among them.
    pub fn new(threads: NonZero<usize>) -> (Self, Queue<'a>) {
        let (sender, receiver) = sync_channel((threads.get() - 1) * QUEUE);
        let under_way = Arc::new(UnderWay::default());
        let jobs = Self { waiting: Arc::new(Mutex::new(receiver)), under_way: Arc::clone(&under_way) };
        (jobs, Queue { sender, under_way })
    }

    /// Does what there is to do until the queue is gone and all is taken.
    pub fn work(&self, buffer: &mut Buffer) {
        while let Some(job) = self.next() {
            job.run(buffer);
        }
        self.under_way.help(buffer);
    }

    fn next(&self) -> Option<Job<'a>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
    }
}

impl<'a> Queue<'a> {
    /// Hands a job to the other threads. When they have enough to do, it is begun here: whoever waits for them does
    /// nothing meanwhile, and has to be woken.
    pub fn put(&self, job: Job<'a>, buffer: &mut Buffer) {
        let mut left = Some(job);
        while let Some(job) = left {
            left = match self.sender.try_send(job) {
                Ok(()) => None,
                Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => job.begin(buffer),
            };
        }
    }

    /// Hands over a regular file of `size` bytes that was made.
    pub fn put_file(&self, file: OpenFile<'a>, size: u64, buffer: &mut Buffer) {
        let large = Arc::new(Large::new(file, size));
        if size > PIECE_BYTES {
            self.under_way.add(&large);
        }
        self.put(Job::Fill(large), buffer);
    }
}
