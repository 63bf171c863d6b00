//! Several threads read and hash, one takes the batches in order.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::node::NodeId;
use super::options::Geometry;
use super::plan::Planner;
use super::reader::{self, Batch};
use super::tree::Tree;
use crate::Error;

/// Reads `files` on `jobs` threads and gives their batches to `take` on this one, in order.
///
/// Memory is bounded by a fixed number of buffers. A thread takes a buffer first and the next batch then, so
/// the batch that `take` waits for always has a buffer, and the threads cannot block each other.
pub(super) fn run(
    tree: &Tree,
    files: &[NodeId],
    geometry: Geometry,
    jobs: usize,
    take: &mut dyn FnMut(&Batch) -> Result<(), Error>,
) -> Result<(), Error> {
    let buffers = 2 * jobs + 2;
    let (free, free_batches) = sync_channel(buffers);
    for _ in 0..buffers {
        free.send(Batch::default()).expect("the channel has room for all of them");
    }
    let queue = Mutex::new(Queue { free_batches, planner: Planner::new(tree, files, geometry), next: 0 });
    std::thread::scope(|scope| {
        let (done, done_batches) = sync_channel(buffers);
        for _ in 0..jobs {
            let done = done.clone();
            let queue = &queue;
            scope.spawn(move || work(tree, files, geometry, queue, &done));
        }
        drop(done);
        // Moved in, so that an error drops both ends and the threads stop at their next step.
        in_order(done_batches, free, take)
    })
}

struct Queue<'a> {
    free_batches: Receiver<Batch>,
    planner: Planner<'a>,
    next: u64,
}

/// A batch with its number, or why it could not be read.
type Numbered = (u64, Result<Batch, Error>);

fn work(
    tree: &Tree,
    files: &[NodeId],
    geometry: Geometry,
    queue: &Mutex<Queue<'_>>,
    done: &SyncSender<Numbered>,
) {
    loop {
        // Another thread can only have panicked; the scope reports that.
        let Ok(mut queue) = queue.lock() else { return };
        let Ok(mut batch) = queue.free_batches.recv() else { return };
        let number = queue.next;
        let planned = queue.planner.next(&mut batch.segments);
        queue.next += 1;
        drop(queue);
        if planned.is_ok() && batch.segments.is_empty() {
            return;
        }
        let result = planned.and_then(|()| reader::read(tree, files, geometry, &mut batch));
        let failed = result.is_err();
        if done.send((number, result.map(|()| batch))).is_err() || failed {
            return;
        }
    }
}

/// Puts the batches in order; of several errors the first in order counts, whichever came first.
fn in_order(
    done: Receiver<Numbered>,
    free: SyncSender<Batch>,
    take: &mut dyn FnMut(&Batch) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut next = 0;
    let mut early = BTreeMap::new();
    for (number, result) in done {
        early.insert(number, result);
        while let Some(result) = early.remove(&next) {
            let batch = result?;
            take(&batch)?;
            // When nobody needs a buffer any more the threads have ended.
            let _ = free.try_send(batch);
            next += 1;
        }
    }
    Ok(())
}
