//! P3 and P5, whatever fails: the ledger has at least what the files take, nothing is charged when nothing is left, and
//! with the cause gone every object can be used again.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use larder_fscache::{AuxData, Backend, CacheObject, CookieKey, ObjectRange, ObjectSpec};
use proptest::prelude::*;

use super::{Machine, PAGE, fill, volume};
use crate::layout::CACHE;
use crate::store::Store;
use crate::{BootId, Cachefiles, DescriptorHolder};

const KEYS: usize = 2;
const SIZES: [u64; 3] = [2 * PAGE + 100, 4 * PAGE, 6 * PAGE + 100];

/// What can happen to a cache whose calls may fail.
#[derive(Clone, Debug)]
enum Event {
    Acquire { key: usize, size: usize },
    LetGo { key: usize },
    Write { key: usize, page: u64, pages: u64 },
    Commit { key: usize },
    Withdraw { key: usize },
    Replace { key: usize, size: usize, keeps_old: bool },
    Resize { key: usize, size: usize, keeps_old: bool },
    Relinquish { key: usize },
    Remove { key: usize },
    Invalidate { key: usize, page: u64 },
    Cull { bytes: u64 },
    OtherVolume { aux: u8 },
    Decay,
    KeeperFull(bool),
    FailCalls { after: u64, count: u64 },
    Restart,
}

fn event() -> impl Strategy<Value = Event> {
    let key = || 0..KEYS;
    let size = || 0..SIZES.len();
    prop_oneof![
        4 => (key(), size()).prop_map(|(key, size)| Event::Acquire { key, size }),
        3 => key().prop_map(|key| Event::LetGo { key }),
        6 => (key(), 0u64..7, 1u64..4).prop_map(|(key, page, pages)| Event::Write { key, page, pages }),
        3 => key().prop_map(|key| Event::Commit { key }),
        1 => key().prop_map(|key| Event::Withdraw { key }),
        2 => (key(), size(), any::<bool>()).prop_map(|(key, size, keeps_old)| Event::Replace { key, size, keeps_old }),
        3 => (key(), size(), any::<bool>()).prop_map(|(key, size, keeps_old)| Event::Resize { key, size, keeps_old }),
        1 => key().prop_map(|key| Event::Relinquish { key }),
        1 => key().prop_map(|key| Event::Remove { key }),
        1 => (key(), 0u64..7).prop_map(|(key, page)| Event::Invalidate { key, page }),
        1 => prop_oneof![Just(1), Just(u64::MAX)].prop_map(|bytes| Event::Cull { bytes }),
        1 => (0u8..2).prop_map(|aux| Event::OtherVolume { aux }),
        1 => Just(Event::Decay),
        1 => any::<bool>().prop_map(Event::KeeperFull),
        5 => (0u64..12, 1u64..6).prop_map(|(after, count)| Event::FailCalls { after, count }),
        1 => Just(Event::Restart),
    ]
}

struct World {
    machine: Machine,
    store: Arc<Store>,
    cache: Cachefiles,
    objects: [Option<Arc<dyn CacheObject>>; KEYS],
    /// Replaced, and still in somebody's hands.
    old: Vec<Arc<dyn CacheObject>>,
}

impl World {
    fn new(seed: u64) -> Self {
        let machine = Machine::new(seed);
        let (store, cache) = start(&machine);
        Self { machine, store, cache, objects: [None, None], old: Vec::new() }
    }

    /// What fails here may fail: only the sums are looked at.
    fn step(&mut self, event: &Event) {
        match *event {
            Event::Acquire { key, size } => {
                let spec = ObjectSpec::of_size(SIZES[size]);
                if let Ok(object) = self.cache.acquire(&volume(), &cookie(key), &spec) {
                    self.objects[key] = Some(object);
                }
            }
            Event::LetGo { key } => {
                self.objects[key] = None;
                self.old.clear();
            }
            Event::Write { key, page, pages } => {
                if let Some(object) = &self.objects[key] {
                    let _ =
                        fill(&**object, ObjectRange::at(page * PAGE, pages * PAGE).clamp_to(object.size()));
                }
            }
            Event::Commit { key } => {
                if let Some(object) = &self.objects[key] {
                    let _ = object.commit();
                }
            }
            Event::Withdraw { key } => {
                if let Some(object) = &self.objects[key] {
                    object.withdraw();
                }
            }
            Event::Replace { key, size, keeps_old } => {
                let spec = ObjectSpec::of_size(SIZES[size]);
                let fresh = self.cache.replace(&volume(), &cookie(key), &spec);
                self.succeed(key, fresh.ok(), keeps_old);
            }
            Event::Resize { key, size, keeps_old } => {
                let spec = ObjectSpec::of_size(SIZES[size]);
                let fresh = self.cache.resize(&volume(), &cookie(key), &spec);
                self.succeed(key, fresh.ok(), keeps_old);
            }
            Event::Relinquish { key } => drop(self.cache.relinquish(&volume(), &cookie(key))),
            Event::Remove { key } => drop(self.cache.remove(&volume(), &cookie(key))),
            Event::Invalidate { key, page } => {
                let range = ObjectRange::at(page * PAGE, 2 * PAGE);
                drop(self.cache.invalidate_range(&volume(), &cookie(key), range));
            }
            Event::Cull { bytes } => drop(self.cache.cull(bytes, 0)),
            Event::OtherVolume { aux } => {
                let aux = AuxData::new(&[aux]).expect("short");
                drop(self.cache.acquire_volume(&volume(), &aux));
            }
            Event::Decay => drop(self.cache.maintain()),
            Event::KeeperFull(full) => self.machine.keeper.is_full.store(full, Ordering::Relaxed),
            Event::FailCalls { after, count } => self.machine.disk.fail_calls(after, count),
            Event::Restart => self.restart(),
        }
    }

    fn succeed(&mut self, key: usize, fresh: Option<Arc<dyn CacheObject>>, keeps_old: bool) {
        let old = std::mem::replace(&mut self.objects[key], fresh);
        if keeps_old {
            self.old.extend(old);
        }
    }

    fn restart(&mut self) {
        self.objects = [None, None];
        self.old.clear();
        self.machine.disk.fail_calls(0, 0);
        (self.store, self.cache) = start(&self.machine);
    }

    /// With the failures gone, everything can be used.
    fn recover(&mut self) {
        self.objects = [None, None];
        self.old.clear();
        self.machine.disk.fail_calls(0, 0);
        for key in 0..KEYS {
            let object =
                self.cache.acquire(&volume(), &cookie(key), &ObjectSpec::of_size(SIZES[1])).expect("healthy");
            fill(&*object, ObjectRange::at(0, PAGE)).expect("space");
            object.commit().expect("it has its name");
        }
    }

    /// Lets everything go, and culls it.
    fn empty(&mut self) {
        for key in 0..KEYS {
            self.cache.relinquish(&volume(), &cookie(key)).expect("idle");
        }
        self.cache.cull(u64::MAX, 0);
        self.cache.maintain().expect("a healthy disk");
    }
}

fn start(machine: &Machine) -> (Arc<Store>, Cachefiles) {
    let holder = Arc::clone(&machine.keeper) as Arc<dyn DescriptorHolder>;
    let store = Store::over(Arc::new(machine.disk.clone()), BootId::from_bytes([1; 16]), holder);
    let cache = Cachefiles::over(Arc::clone(&store)).expect("a simulated disk with space is fit");
    store.walk();
    (store, cache)
}

fn cookie(key: usize) -> CookieKey {
    CookieKey::new(["c", "d"][key]).expect("valid")
}

proptest! {
    #[test]
    fn p3_p5_whatever_fails_no_less_is_charged_than_is_there_and_the_cache_recovers(
        seed: u64, events in proptest::collection::vec(event(), 1..40),
    ) {
        let mut world = World::new(seed);
        for event in &events {
            world.step(event);
            let (there, charged) = (world.machine.disk.stored_below(CACHE), world.store.ledger.used());
            prop_assert!(there <= charged, "{there} bytes are there, {charged} are charged; after {event:?}");
        }
        world.recover();
        world.empty();
        prop_assert_eq!(world.machine.disk.stored_below(CACHE), 0);
        prop_assert_eq!(world.store.ledger.used(), 0);
    }
}
