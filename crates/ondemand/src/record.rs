//! What was fetched and who waited: the newest records, for reports.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use larder_fscache::ObjectRange;
use larder_remote::BlobRange;

use crate::Cause;

/// One range request that the engine made.
#[derive(Clone, Debug)]
pub struct FillRecord {
    /// When it went out, counted from the engine's start.
    pub at: Duration,
    /// Name of the blob.
    pub blob: Arc<str>,
    /// What it brings, in the decoded object.
    pub range: ObjectRange,
    /// What it asked for, in the stored blob.
    pub stored: BlobRange,
    /// Why.
    pub cause: Cause,
    /// From going out to the last chunk's answer.
    pub took: Duration,
    /// Whether every chunk of it was verified and written.
    pub ok: bool,
}

/// One reader that met a hole.
#[derive(Clone, Debug)]
pub struct FaultRecord {
    /// When it came, counted from the engine's start.
    pub at: Duration,
    /// Name of the blob.
    pub blob: Arc<str>,
    /// What it wanted, in the decoded object.
    pub range: ObjectRange,
    /// How long it waited.
    pub waited: Duration,
    /// The process that read, where the front end knows it.
    pub pid: Option<u32>,
    /// Whether it got its bytes.
    pub ok: bool,
}

/// The newest records of one kind; the oldest make way.
#[derive(Debug)]
pub(crate) struct Ring<T> {
    newest: VecDeque<T>,
    capacity: usize,
}

impl<T: Clone> Ring<T> {
    pub fn new(capacity: usize) -> Self {
        Self { newest: VecDeque::new(), capacity }
    }

    pub fn push(&mut self, record: T) {
        if self.capacity == 0 {
            return;
        }
        if self.newest.len() == self.capacity {
            self.newest.pop_front();
        }
        self.newest.push_back(record);
    }

    /// Oldest first.
    pub fn to_vec(&self) -> Vec<T> {
        self.newest.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_are_kept() {
        let mut ring = Ring::new(3);
        for n in 0..5 {
            ring.push(n);
        }
        assert_eq!(ring.to_vec(), [2, 3, 4]);
    }

    #[test]
    fn a_ring_without_room_keeps_nothing() {
        let mut ring = Ring::new(0);
        ring.push(1);
        assert!(ring.to_vec().is_empty());
    }
}
