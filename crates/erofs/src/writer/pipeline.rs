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
///
/// # Panics
///
/// When a worker does: the others end at their next step, and nothing more is taken.
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
type Numbered<B> = (u64, Result<B, Stop>);

/// Why nothing comes after this batch.
enum Stop {
    Error(Error),
    /// Whoever had the batch panicked, and the scope of the threads will.
    Panic,
}

/// A batch that a thread works on. Were it to vanish with the thread, everybody would wait for its number.
struct AtWork<'a, B> {
    number: u64,
    done: &'a SyncSender<Numbered<B>>,
}

impl<B> AtWork<'_, B> {
    /// Hands it over; returns whether that is still wanted.
    fn done(&self, result: Result<B, Stop>) -> bool {
        self.done.send((self.number, result)).is_ok()
    }
}

impl<B> Drop for AtWork<'_, B> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.done(Err(Stop::Panic));
        }
    }
}

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
        let at_work = AtWork { number: queue.next, done };
        queue.next += 1;
        drop(queue);
        let result = fed.and_then(|_| worker(&mut batch));
        let failed = result.is_err();
        if !at_work.done(result.map(|()| batch).map_err(Stop::Error)) || failed {
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
        let result = match result {
            Ok(batch) => Ok(batch),
            Err(Stop::Error(error)) => Err(error),
            Err(Stop::Panic) => return Ok(()),
        };
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

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    /// Gives out the numbers below a thousand.
    struct Numbers(u32);

    impl Feed<u32> for Numbers {
        fn next(&mut self, batch: &mut u32) -> Result<bool, Error> {
            self.0 += 1;
            *batch = self.0;
            Ok(self.0 < 1000)
        }
    }

    /// Runs with a worker that panics at number 100; what was taken until then, or `None` when it hangs.
    fn taken_until_the_panic(jobs: usize) -> Option<Vec<u32>> {
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            let mut taken = Vec::new();
            let worker = || -> Worker<'_, u32> {
                Box::new(|number| {
                    assert!(*number != 100, "on purpose");
                    Ok(())
                })
            };
            let mut take = |number: &mut u32| {
                taken.push(*number);
                Ok(())
            };
            let ended =
                catch_unwind(AssertUnwindSafe(|| run(Numbers(0), jobs, &worker, &mut take).map(drop)));
            assert!(ended.is_err(), "the panic is passed on");
            sender.send(taken).expect("somebody waits");
        });
        receiver.recv_timeout(Duration::from_secs(60)).ok()
    }

    #[test]
    fn a_worker_that_panics_ends_the_others() {
        for jobs in [1, 2, 5] {
            let taken = taken_until_the_panic(jobs).unwrap_or_else(|| panic!("{jobs} jobs hang"));
            let in_order = taken.iter().zip(1..).all(|(one, other)| *one == other);
            assert!(taken.len() < 100 && in_order, "{jobs}: {taken:?}");
        }
    }
}
