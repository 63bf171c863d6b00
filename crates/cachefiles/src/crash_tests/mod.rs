//! The cache against a disk that loses what was not synced, and against the death of its process anywhere.

mod charges;
mod faults;
mod handles;
mod sequences;
mod steps;
mod taking;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};

use larder_fscache::{Backend, CacheObject, CookieKey, Error, ObjectRange, ObjectSpec, Run, VolumeKey};

use crate::holder::tests::MapHolder;
use crate::storage::sim::{SimDisk, Stop, Stopped};
use crate::store::Store;
use crate::{BootId, Cachefiles, DescriptorHolder};

const PAGE: u64 = 4096;
const SIZE: u64 = 6 * PAGE + 100;

/// A machine: disk and keeper outlive the worker, the disk outlives the boot.
struct Machine {
    disk: SimDisk,
    keeper: Arc<MapHolder>,
    boot: u8,
}

/// A worker with its one object.
struct Worker {
    cache: Cachefiles,
    object: Arc<dyn CacheObject>,
}

impl Machine {
    fn new(seed: u64) -> Self {
        Self { disk: SimDisk::new(seed), keeper: Arc::default(), boot: 1 }
    }

    /// A worker that has acquired nothing yet.
    fn start_empty(&self) -> Cachefiles {
        let holder = Arc::clone(&self.keeper) as Arc<dyn DescriptorHolder>;
        let boot_id = BootId::from_bytes([self.boot; 16]);
        let store = Store::over(Arc::new(self.disk.clone()), boot_id, holder);
        Cachefiles::over(store).expect("a simulated disk with space is fit")
    }

    fn start(&self, size: u64) -> Result<Worker, Error> {
        let cache = self.start_empty();
        let object = cache.acquire(&volume(), &cookie(), &ObjectSpec::of_size(size))?;
        Ok(Worker { cache, object })
    }

    fn lose_power(&mut self, seed: u64) {
        *self = Self { disk: self.disk.after_power_loss(seed), keeper: Arc::default(), boot: self.boot + 1 };
    }

    /// Runs `work` as a process that may end in any change to the disk. Returns whether it lived.
    fn survives(&self, stop: Stop, work: impl FnOnce()) -> bool {
        self.disk.stop_at(Some(stop));
        let ended = catch_unwind(AssertUnwindSafe(work));
        self.disk.stop_at(None);
        match ended {
            Ok(()) => true,
            Err(payload) if payload.is::<Stopped>() => false,
            Err(payload) => std::panic::resume_unwind(payload),
        }
    }
}

fn volume() -> VolumeKey {
    VolumeKey::new("v").expect("valid")
}

fn cookie() -> CookieKey {
    CookieKey::new("c").expect("valid")
}

/// The bytes that the object must have. None is zero: a hole taken for data shows.
fn truth(range: ObjectRange) -> &'static [u8] {
    static TRUTH: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let byte = |at| u8::try_from(1 + (at * 31 + at / PAGE * 7) % 251).expect("small");
        (0..SIZE).map(byte).collect()
    });
    let index = |at| usize::try_from(at).expect("small");
    &TRUTH[index(range.start())..index(range.end())]
}

fn fill(object: &dyn CacheObject, range: ObjectRange) -> Result<(), Error> {
    object.write(range.start(), truth(range))
}

/// P1: whatever the cache says is present must be the truth. Returns what it says.
fn check(object: &dyn CacheObject) -> Vec<ObjectRange> {
    let mut present = Vec::new();
    let mut at = 0;
    while at < object.size() {
        let end = match object.probe(at) {
            Run::Hole { until } => until,
            Run::Present { until } => {
                let range = ObjectRange::new(at, until).expect("forwards");
                let mut found = vec![0; usize::try_from(range.len()).expect("small")];
                let len = object.read_at(at, &mut found).expect("readable");
                assert!(len == found.len() && found == truth(range), "{range} is not the truth");
                present.push(range);
                until
            }
        };
        assert!(end > at, "a run has bytes");
        at = end;
    }
    let sum: u64 = present.iter().map(|range| range.len()).sum();
    assert_eq!(object.present_bytes(), sum, "the counter agrees with the map");
    assert_eq!(object.is_complete(), sum == object.size());
    present
}

fn covers(present: &[ObjectRange], range: ObjectRange) -> bool {
    present.iter().any(|run| run.start() <= range.start() && range.end() <= run.end())
}

/// The object can be filled, sealed, and read back, whatever happened before.
fn finish(machine: &Machine) {
    let worker = machine.start(SIZE).expect("space");
    fill(&*worker.object, ObjectRange::at(0, SIZE)).expect("space");
    worker.object.commit().expect("a healthy disk");
    assert!(worker.object.is_complete());
    check(&*worker.object);
}
