//! [`Lanes`]: leave to read sources on this machine, for each file system apart.

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};

use crate::{
    EngineConfig,
    blob::lock,
    cause::{PerPriority, Priority},
    room::DecodingRoom,
};

/// Threads in a file system from which nothing has come yet, at most: if it hangs, it has no more.
const FIRST_MAX: usize = 2;

/// Between two looks at who hangs, for whoever waits because too many read.
const PAUSE: Duration = Duration::from_secs(1);

/// Who may read sources on this machine.
///
/// A file system that hangs keeps the few permits that are its own, and the memory of those who hang in it: no other waits for
/// either. What all share it gives back.
#[derive(Debug)]
pub(crate) struct Lanes {
    /// Permits of one file system.
    share: usize,
    /// A file system in which nobody has got on for so long hangs.
    stall: Duration,
    all: Arc<Semaphore>,
    /// Taken in place of those that all share.
    hanging: Arc<Semaphore>,
    file_systems: Mutex<BTreeMap<u64, Arc<FileSystem>>>,
    wanted: Wanted,
}

/// How many wait for leave to read anywhere.
#[derive(Clone, Debug, Default)]
struct Wanted(Arc<PerPriority<AtomicUsize>>);

/// One who waits.
struct Waits(Wanted, Priority);

#[derive(Debug)]
struct FileSystem {
    permits: Arc<Semaphore>,
    /// Permits that nobody has and nobody gets before something comes from there.
    withheld: AtomicUsize,
    room: DecodingRoom,
    /// How often bytes have come, to whoever.
    steps: AtomicUsize,
    readers: Mutex<Readers>,
}

/// What the threads in a file system have together.
#[derive(Debug)]
struct Readers {
    of_all: Vec<OwnedSemaphorePermit>,
    hanging: Vec<OwnedSemaphorePermit>,
    /// When something came from there last, or the first of them began.
    since: Instant,
}

/// Leave to read in one file system, on one thread.
#[derive(Debug)]
pub(crate) struct LanePermit {
    file_system: Arc<FileSystem>,
    _of_file_system: OwnedSemaphorePermit,
    wanted: Wanted,
}

impl Lanes {
    /// All are free.
    pub fn new(config: &EngineConfig) -> Self {
        let permits = |permits| Arc::new(Semaphore::new(permits));
        let (all, hanging) = (permits(EngineConfig::READING_MAX), permits(EngineConfig::HANGING_MAX));
        let (file_systems, wanted) = Default::default();
        Self { share: config.lanes(), stall: config.stall, all, hanging, file_systems, wanted }
    }

    /// Waits for leave to read in the file system of this number; `None` cannot happen.
    pub async fn take(&self, file_system: u64, priority: Priority) -> Option<LanePermit> {
        let file_system = self.file_system(file_system);
        if file_system.hangs(self.stall) {
            file_system.withhold();
        }
        let _waits = self.wanted.one_more(priority);
        // Its own first: whoever waits in a file system that hangs has nothing of what all share. Neither is ever closed.
        let of_file_system = Arc::clone(&file_system.permits).acquire_owned().await.ok()?;
        file_system.begin(self.of_all().await?);
        Some(LanePermit { file_system, _of_file_system: of_file_system, wanted: self.wanted.clone() })
    }

    async fn of_all(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.all).try_acquire_owned() {
            return Some(permit);
        }
        let mut permit = pin!(Arc::clone(&self.all).acquire_owned());
        loop {
            self.make_room();
            if let Ok(permit) = timeout(PAUSE, &mut permit).await {
                return permit.ok();
            }
        }
    }

    /// Has those who hang give back what all share, as long as there are not too many.
    fn make_room(&self) {
        for file_system in lock(&self.file_systems).values().filter(|one| one.hangs(self.stall)) {
            lock(&file_system.readers).make_room(&self.hanging);
        }
    }

    /// How often bytes have come from a file system since somebody began to read there: while that grows, it does not hang.
    pub fn steps(&self, file_system: u64) -> usize {
        let file_systems = lock(&self.file_systems);
        file_systems.get(&file_system).map_or(0, |file_system| file_system.steps.load(Ordering::Relaxed))
    }

    fn file_system(&self, number: u64) -> Arc<FileSystem> {
        let mut file_systems = lock(&self.file_systems);
        // Only the table has it: nobody reads there and nobody waits.
        file_systems.retain(|_, file_system| Arc::strong_count(file_system) > 1);
        Arc::clone(file_systems.entry(number).or_insert_with(|| Arc::new(FileSystem::new(self.share))))
    }
}

impl Wanted {
    fn one_more(&self, priority: Priority) -> Waits {
        self.0.of(priority).fetch_add(1, Ordering::Relaxed);
        Waits(self.clone(), priority)
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        let Self(Wanted(wanted), priority) = self;
        wanted.of(*priority).fetch_sub(1, Ordering::Relaxed);
    }
}

impl FileSystem {
    fn new(share: usize) -> Self {
        let first = share.min(FIRST_MAX);
        Self {
            permits: Arc::new(Semaphore::new(first)),
            withheld: AtomicUsize::new(share - first),
            room: DecodingRoom::new(),
            steps: AtomicUsize::new(0),
            readers: Mutex::new(Readers { of_all: Vec::new(), hanging: Vec::new(), since: Instant::now() }),
        }
    }

    fn hangs(&self, stall: Duration) -> bool {
        let readers = lock(&self.readers);
        !readers.is_empty() && readers.since.elapsed() >= stall
    }

    /// Lets nobody else in before something comes from there.
    fn withhold(&self) {
        let left = self.permits.forget_permits(self.permits.available_permits());
        self.withheld.fetch_add(left, Ordering::Relaxed);
    }

    fn begin(&self, of_all: OwnedSemaphorePermit) {
        let mut readers = lock(&self.readers);
        if readers.is_empty() {
            readers.since = Instant::now();
        }
        readers.of_all.push(of_all);
    }

    fn get_on(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
        lock(&self.readers).since = Instant::now();
        self.permits.add_permits(self.withheld.swap(0, Ordering::Relaxed));
    }
}

impl Readers {
    fn is_empty(&self) -> bool {
        self.of_all.is_empty() && self.hanging.is_empty()
    }

    fn make_room(&mut self, hanging: &Arc<Semaphore>) {
        while !self.of_all.is_empty()
            && let Ok(permit) = Arc::clone(hanging).try_acquire_owned()
        {
            self.hanging.push(permit);
            self.of_all.pop();
        }
    }

    fn end_one(&mut self) {
        drop(self.hanging.pop().or_else(|| self.of_all.pop()));
    }
}

impl LanePermit {
    /// Bytes were read, or could not be.
    pub fn get_on(&self) {
        self.file_system.get_on();
    }

    /// Whether anybody waits for leave to read, there or elsewhere, who is as urgent.
    pub fn is_wanted(&self, priority: Priority) -> bool {
        let is_as_urgent = |other: &Priority| *other >= priority;
        let wanted = |other: Priority| self.wanted.0.of(other).load(Ordering::Relaxed) > 0;
        Priority::MOST_URGENT_FIRST.into_iter().filter(is_as_urgent).any(wanted)
    }

    /// Memory for large chunks from there: an image chooses its chunks, not the file system that it lies in.
    pub fn room(&self) -> &DecodingRoom {
        &self.file_system.room
    }
}

impl Drop for LanePermit {
    fn drop(&mut self) {
        lock(&self.file_system.readers).end_one();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::task::unconstrained;

    use super::*;

    const DEMAND: Priority = Priority::Demand;

    fn one_of(lanes: &Lanes, file_system: u64) -> Option<LanePermit> {
        // However many were taken before, without a turn for anybody else.
        unconstrained(lanes.take(file_system, DEMAND)).now_or_never().flatten()
    }

    /// One of a file system of which nobody reads anything else, as soon as there is room.
    async fn one_in_time(lanes: &Lanes) -> Option<LanePermit> {
        timeout(10 * PAUSE, lanes.take(1000, DEMAND)).await.ok().flatten()
    }

    /// All that one gets from which nothing comes.
    fn hung_in(lanes: &Lanes, file_system: u64) -> Vec<LanePermit> {
        std::iter::from_fn(|| one_of(lanes, file_system)).collect()
    }

    /// All that one gets that answers.
    fn all_of(lanes: &Lanes, file_system: u64) -> Vec<LanePermit> {
        let answered = || one_of(lanes, file_system).inspect(LanePermit::get_on);
        std::iter::from_fn(answered).collect()
    }

    fn lanes() -> Lanes {
        let decoders = std::num::NonZero::new(8).expect("not zero");
        Lanes::new(&EngineConfig { decoders, ..EngineConfig::default() })
    }

    #[tokio::test]
    async fn p5_a_file_system_that_keeps_its_permits_leaves_others_theirs_and_all_are_bounded() {
        let lanes = lanes();
        let hung = all_of(&lanes, 0);
        assert_eq!(hung.len(), lanes.share);
        assert!(one_of(&lanes, 0).is_none(), "its share is taken");
        let mut waits = Box::pin(lanes.take(0, Priority::Readahead));
        assert!((&mut waits).now_or_never().is_none());
        let wanted = |priority| hung[0].is_wanted(priority);
        assert!(wanted(Priority::Prefetch) && wanted(Priority::Readahead) && !wanted(DEMAND));
        drop(waits);
        assert!(!wanted(Priority::Prefetch), "it has given up");
        let others: Vec<_> = (1..100).map(|file_system| all_of(&lanes, file_system)).collect();
        assert_eq!(others[0].len(), lanes.share);
        assert_eq!(hung.len() + others.iter().map(Vec::len).sum::<usize>(), EngineConfig::READING_MAX);
        drop((hung, others));
        assert_eq!(all_of(&lanes, 0).len(), lanes.share);
        assert_eq!(lock(&lanes.file_systems).len(), 1, "nothing is left of the others");
    }

    #[tokio::test]
    async fn whoever_waits_where_nothing_moves_takes_nothing_from_others() {
        let lanes = lanes();
        let _hung = all_of(&lanes, 0);
        let mut waiting: Vec<_> =
            (0..EngineConfig::READING_MAX).map(|_| Box::pin(lanes.take(0, DEMAND))).collect();
        assert!(waiting.iter_mut().all(|waits| waits.now_or_never().is_none()));
        assert_eq!(all_of(&lanes, 1).len(), lanes.share);
    }

    #[tokio::test(start_paused = true)]
    async fn p5_a_file_system_that_hangs_has_few_threads_and_its_share_again_when_it_answers() {
        let lanes = lanes();
        let hung = hung_in(&lanes, 0);
        assert_eq!(hung.len(), FIRST_MAX, "nothing has come from there yet");
        hung[0].get_on();
        let more = hung_in(&lanes, 0);
        assert_eq!(hung.len() + more.len(), lanes.share);
        drop(more);
        tokio::time::sleep(lanes.stall).await;
        assert!(one_of(&lanes, 0).is_none(), "it has stopped answering");
        let mut waits = Box::pin(lanes.take(0, DEMAND));
        assert!((&mut waits).now_or_never().is_none());
        hung[0].get_on();
        drop(waits.now_or_never().flatten().expect("it answers"));
        drop(hung);
        assert_eq!(all_of(&lanes, 0).len(), lanes.share);
    }

    #[tokio::test(start_paused = true)]
    async fn p2_file_systems_that_hang_leave_room_for_others_however_many_they_are() {
        let lanes = lanes();
        let hang = |file_system| hung_in(&lanes, file_system);
        let (few, many) = (EngineConfig::READING_MAX / FIRST_MAX, EngineConfig::HANGING_MAX / FIRST_MAX);
        let number = |n: usize| u64::try_from(n).expect("small");
        let mut hung: Vec<_> = (0..few).map(|n| hang(number(n))).collect();
        assert!(one_of(&lanes, 1000).is_none(), "it is not known yet that they hang");
        for n in few..many {
            tokio::time::sleep(lanes.stall).await;
            drop(one_in_time(&lanes).await.expect("somebody hangs"));
            hung.push(hang(number(n)));
        }
        tokio::time::sleep(lanes.stall).await;
        drop(one_in_time(&lanes).await.expect("somebody hangs"));
        hung.extend((many..many + few).map(|n| hang(number(n))));
        tokio::time::sleep(lanes.stall).await;
        assert_eq!(hung.iter().map(Vec::len).sum::<usize>(), EngineConfig::LANES_MAX);
        assert!(one_in_time(&lanes).await.is_none(), "that is the bound");
        drop(hung);
        assert_eq!(lanes.all.available_permits(), EngineConfig::READING_MAX);
        assert_eq!(lanes.hanging.available_permits(), EngineConfig::HANGING_MAX);
    }
}
