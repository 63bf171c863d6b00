//! Several threads prepare batches, one takes them in order.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::Error;

/// Where batches come from: in order, under a lock.
pub(super) trait Feed<B>: Send {
    /// Fills a batch with what comes next; `false` at the end.
    fn next(&mut self, batch: &mut B) -> Result<bool, Error>;
}

/// What a thread does to a batch.
pub(super) type Worker<'a, B> = Box<dyn FnMut(&mut B) -> Result<(), Error> + 'a>;

/// Has `jobs` threads work on the batches of `feed`, and gives these to `take` on this thread, in order.
///
/// Memory is bounded by a fixed number of batches. A thread takes an empty batch first and its contents then, so
/// what `take` waits for always has a batch, and the threads cannot block each other.
pub(super) fn run<'w, B: Default + Send + 'w, F: Feed<B>>(
    feed: F,
    jobs: usize,
    worker: &(dyn Fn() -> Worker<'w, B> + Sync),
    take: &mut dyn FnMut(&mut B) -> Result<(), Error>,
) -> Result<F, Error> {
    let batches = 2 * jobs + 2;
    let (free, free_batches) = sync_channel(batches);
    for _ in 0..batches {
        free.send(B::default()).expect("the channel has room for all of them");
    }
    let queue = Mutex::new(Queue { free_batches, feed, next: 0 });
    std::thread::scope(|scope| {
        let (done, done_batches) = sync_channel(batches);
        for _ in 0..jobs {
            let done = done.clone();
            let queue = &queue;
            scope.spawn(move || work(queue, worker(), &done));
        }
        drop(done);
        // Moved in, so that an error drops both ends and the threads stop at their next step.
        in_order(done_batches, free, take)
    })?;
    let queue = queue.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    Ok(queue.feed)
}

struct Queue<B, F> {
    free_batches: Receiver<B>,
    feed: F,
    next: u64,
}

/// A batch with its number, or why it could not be prepared.
type Numbered<B> = (u64, Result<B, Error>);

fn work<B, F: Feed<B>>(
    queue: &Mutex<Queue<B, F>>,
    mut worker: Worker<'_, B>,
    done: &SyncSender<Numbered<B>>,
) {
    loop {
        // Another thread can only have panicked; the scope reports that.
        let Ok(mut queue) = queue.lock() else { return };
        let Ok(mut batch) = queue.free_batches.recv() else { return };
        let fed = queue.feed.next(&mut batch);
        if matches!(fed, Ok(false)) {
            return;
        }
        // Only what was fed has a number: whatever comes after a gap would never be taken.
        let number = queue.next;
        queue.next += 1;
        drop(queue);
        let result = fed.and_then(|_| worker(&mut batch));
        let failed = result.is_err();
        if done.send((number, result.map(|()| batch))).is_err() || failed {
            return;
        }
    }
}

/// Puts the batches in order; of several errors the first in order counts, whichever came first.
fn in_order<B>(
    done: Receiver<Numbered<B>>,
    free: SyncSender<B>,
    take: &mut dyn FnMut(&mut B) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut next = 0;
    let mut early = BTreeMap::new();
    for (number, result) in done {
        early.insert(number, result);
        while let Some(result) = early.remove(&next) {
            let mut batch = result?;
            take(&mut batch)?;
            // When nobody needs a batch any more the threads have ended.
            let _ = free.try_send(batch);
            next += 1;
        }
    }
    Ok(())
}
