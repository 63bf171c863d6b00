//! [`Lanes`]: leave to read sources on this machine, for each file system apart.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{EngineConfig, blob::lock, room::DecodingRoom};

/// Who may read sources on this machine.
///
/// A file system that hangs keeps every permit that it has, and the memory of those who hang in it: no other waits for either.
#[derive(Debug)]
pub(crate) struct Lanes {
    /// Permits of one file system.
    share: usize,
    all: Arc<Semaphore>,
    file_systems: Mutex<BTreeMap<u64, Arc<FileSystem>>>,
}

#[derive(Debug)]
struct FileSystem {
    permits: Arc<Semaphore>,
    room: DecodingRoom,
    /// Pieces that were read, by whoever.
    pieces: AtomicUsize,
}

/// Leave to read in one file system, on one thread.
#[derive(Debug)]
pub(crate) struct LanePermit {
    file_system: Arc<FileSystem>,
    _of_file_system: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Lanes {
    /// All are free.
    pub fn new(config: &EngineConfig) -> Self {
        let all = Arc::new(Semaphore::new(EngineConfig::LANES_MAX));
        Self { share: config.lanes(), all, file_systems: Mutex::default() }
    }

    /// Waits for leave to read in the file system of this number; `None` cannot happen.
    pub async fn take(&self, file_system: u64) -> Option<LanePermit> {
        let file_system = self.file_system(file_system);
        // Its own first: whoever waits in a file system that hangs has nothing of what all share. Neither is ever closed.
        let of_file_system = Arc::clone(&file_system.permits).acquire_owned().await.ok()?;
        let of_all = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(LanePermit { file_system, _of_file_system: of_file_system, _of_all: of_all })
    }

    /// How many pieces were read in a file system since somebody began to: while that grows, it does not hang.
    pub fn pieces(&self, file_system: u64) -> usize {
        let file_systems = lock(&self.file_systems);
        file_systems.get(&file_system).map_or(0, |file_system| file_system.pieces.load(Ordering::Relaxed))
    }

    fn file_system(&self, number: u64) -> Arc<FileSystem> {
        let mut file_systems = lock(&self.file_systems);
        // Only the table has it: nobody reads there and nobody waits.
        file_systems.retain(|_, file_system| Arc::strong_count(file_system) > 1);
        let permits = || Arc::new(Semaphore::new(self.share));
        let new = || {
            let (room, pieces) = (DecodingRoom::new(), AtomicUsize::new(0));
            Arc::new(FileSystem { permits: permits(), room, pieces })
        };
        Arc::clone(file_systems.entry(number).or_insert_with(new))
    }
}

impl LanePermit {
    /// A piece was read.
    pub fn read_one(&self) {
        self.file_system.pieces.fetch_add(1, Ordering::Relaxed);
    }

    /// Memory for large chunks from there: an image chooses its chunks, not the file system that it lies in.
    pub fn room(&self) -> &DecodingRoom {
        &self.file_system.room
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn all_of(lanes: &Lanes, file_system: u64) -> Vec<LanePermit> {
        std::iter::from_fn(|| lanes.take(file_system).now_or_never().flatten()).collect()
    }

    #[test]
    fn p5_a_file_system_that_keeps_its_permits_leaves_others_theirs_and_all_are_bounded() {
        let lanes = Lanes::new(&EngineConfig::default());
        let hung = all_of(&lanes, 0);
        assert_eq!(hung.len(), lanes.share);
        assert!(lanes.take(0).now_or_never().is_none(), "its share is taken");
        let others: Vec<_> = (1..100).map(|file_system| all_of(&lanes, file_system)).collect();
        assert_eq!(others[0].len(), lanes.share);
        assert_eq!(hung.len() + others.iter().map(Vec::len).sum::<usize>(), EngineConfig::LANES_MAX);
        drop((hung, others));
        assert_eq!(all_of(&lanes, 0).len(), lanes.share);
        assert_eq!(lock(&lanes.file_systems).len(), 1, "nothing is left of the others");
    }

    #[test]
    fn whoever_waits_where_nothing_moves_takes_nothing_from_others() {
        let lanes = Lanes::new(&EngineConfig::default());
        let _hung = all_of(&lanes, 0);
        let mut waiting: Vec<_> = (0..EngineConfig::LANES_MAX).map(|_| Box::pin(lanes.take(0))).collect();
        assert!(waiting.iter_mut().all(|waits| waits.now_or_never().is_none()));
        assert_eq!(all_of(&lanes, 1).len(), lanes.share);
    }
}
