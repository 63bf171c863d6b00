//! Files opened by their handles: never another than the one that the path leads to, whatever happened.

use std::path::PathBuf;
use std::sync::Arc;

use larder_fscache::{AuxData, Backend, CacheObject, CookieKey, ObjectRange, ObjectSpec};
use proptest::prelude::*;
use tempfile::TempDir;

use super::{Machine, PAGE, SIZE, check, fill, volume};
use crate::coherency::OBJECT_ATTR;
use crate::index::Index;
use crate::layout::Place;
use crate::storage::sim::{SimDisk, Stop};
use crate::storage::{Access, Kind, Storage, read_exact, write_all};
use crate::store::{Parts, Store};
use crate::walk::Progress;
use crate::{BootId, Cachefiles};

const COOKIES: u8 = 3;

/// A machine whose index is on a disk of its own, which loses nothing.
struct World {
    machine: Machine,
    index: TempDir,
    cache: Option<Cachefiles>,
    /// What the volume's folder is known by.
    coherency: u8,
    /// How often something was moved by hand.
    moved: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let index = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory");
        let mut world = Self { machine: Machine::new(seed), index, cache: None, coherency: 0, moved: 0 };
        world.open();
        world
    }

    fn disk(&self) -> &SimDisk {
        &self.machine.disk
    }

    fn seal(&self) -> PathBuf {
        self.index.path().join("index.seal")
    }

    fn open(&mut self) {
        let (index, sums) = Index::open(&self.index.path().join("index.redb")).expect("writable");
        let walk = if sums.is_some() { Progress::done() } else { Progress::default() };
        let boot_id = BootId::from_bytes([self.machine.boot; 16]);
        let parts =
            Parts::over(Arc::new(self.disk().clone()), boot_id, Arc::clone(&self.machine.keeper) as _);
        let store = Arc::new(Store::new(Parts { index, walk, ..parts }));
        let cache = Cachefiles::over(Arc::clone(&store)).expect("a simulated disk with space is fit");
        if sums.is_none() {
            store.walk();
        }
        cache.acquire_volume(&volume(), &AuxData::new(&[self.coherency]).expect("short")).expect("space");
        self.cache = Some(cache);
    }

    /// Returns whether the next start need not walk.
    fn end(&mut self) -> bool {
        self.cache = None;
        self.seal().exists()
    }

    /// The process has died: it has sealed nothing.
    fn die(&mut self) {
        self.cache = None;
        let _ = std::fs::remove_file(self.seal());
    }

    fn lose_power(&mut self, seed: u64) {
        self.machine.lose_power(seed);
        self.open();
    }

    fn cache(&self) -> &Cachefiles {
        self.cache.as_ref().expect("open")
    }

    /// Acquires an object, and compares its file with what the path leads to.
    fn acquire(&self, n: u8) -> Arc<dyn CacheObject> {
        let object = self.cache().acquire(&volume(), &cookie(n), &ObjectSpec::of_size(SIZE)).expect("space");
        assert_eq!(self.disk().id_of(&place(n).data), Some(id(&*object)), "cookie {n}: the path leads to it");
        check(&*object);
        object
    }

    fn let_go(&self, n: u8, object: Arc<dyn CacheObject>) {
        drop(object);
        self.cache().relinquish(&volume(), &cookie(n)).expect("idle");
    }

    /// Number of files that acquiring an object opens by their handles.
    fn by_handle(&self, n: u8) -> u64 {
        let before = self.disk().opened_by_handle();
        self.let_go(n, self.acquire(n));
        self.disk().opened_by_handle() - before
    }

    fn step(&mut self, event: &Event) {
        match *event {
            Event::Use { n, pages, commit } => {
                let object = self.acquire(n);
                fill(&*object, ObjectRange::at(0, pages * PAGE).clamp_to(SIZE)).expect("space");
                if commit {
                    object.commit().expect("a healthy disk");
                }
                self.let_go(n, object);
            }
            Event::Replace { n } => {
                let spec = ObjectSpec::of_size(SIZE);
                self.let_go(n, self.cache().replace(&volume(), &cookie(n), &spec).expect("space"));
            }
            Event::Remove { n } => self.cache().remove(&volume(), &cookie(n)).expect("idle"),
            Event::TakeAway { n } => {
                let range = ObjectRange::at(PAGE, PAGE);
                self.cache().invalidate_range(&volume(), &cookie(n), range).expect("idle");
            }
            Event::Cull => drop(self.cache().cull(1, 1)),
            Event::Maintain => drop(self.cache().maintain().expect("a healthy disk")),
            Event::Volume => {
                self.coherency += 1;
                let coherency = AuxData::new(&[self.coherency]).expect("short");
                self.cache().acquire_volume(&volume(), &coherency).expect("space");
            }
            Event::CleanEnd => {
                assert!(self.end());
                self.open();
            }
            Event::Kill => {
                self.die();
                self.open();
            }
            Event::PowerLoss { clean, seed } => {
                if clean {
                    self.end();
                } else {
                    self.die();
                }
                self.lose_power(seed);
            }
            Event::ByHand { n, what, is_clean } => {
                if is_clean {
                    assert!(self.end());
                    self.by_hand(n, what);
                    self.open();
                } else {
                    self.by_hand(n, what);
                }
            }
        }
    }

    /// What an owner may do to the files, and then to `sync`: the map of a copy that lost its bytes with the power would vouch
    /// for them.
    fn by_hand(&mut self, n: u8, what: ByHand) {
        let (disk, place) = (self.disk().clone(), place(n));
        self.moved += 1;
        let aside = format!("aside-{}", self.moved);
        let is_there = |path: &str| disk.stat(path).expect("readable").is_some();
        match what {
            ByHand::Remove => drop(disk.unlink(&place.data).expect("writable")),
            ByHand::RenameAndCopy if is_there(&place.data) => {
                let beside = format!("{}/{aside}", place.dir);
                disk.rename(&place.data, &beside).expect("writable");
                copy(&disk, &beside, &place.data);
            }
            ByHand::MoveVolumeAndCopy if is_there(&place.volume_dir) => {
                disk.rename(&place.volume_dir, &aside).expect("writable");
                copy(&disk, &aside, &place.volume_dir);
            }
            ByHand::BuryVolume if is_there(&place.volume_dir) => {
                disk.rename(&place.volume_dir, &format!("graveyard/{aside}")).expect("writable");
            }
            ByHand::RenameAndCopy | ByHand::MoveVolumeAndCopy | ByHand::BuryVolume => {}
        }
        disk.sync();
    }
}

/// As `cp -a` does it.
fn copy(disk: &SimDisk, from: &str, to: &str) {
    if disk.stat(from).expect("readable").expect("there").kind == Kind::Dir {
        disk.mkdir(to).expect("space");
        let attr = "user.larder.volume";
        if let Some(value) = disk.dir_attr(from, attr).expect("readable") {
            disk.set_dir_attr(to, attr, &value).expect("space");
        }
        for name in disk.list(from).expect("readable") {
            copy(disk, &format!("{from}/{name}"), &format!("{to}/{name}"));
        }
        return;
    }
    let (file, copied) = (disk.open(from, Access::Read).expect("there"), disk.create(to).expect("space"));
    let mut bytes = vec![0; usize::try_from(file.stat().expect("open").len).expect("small")];
    read_exact(&*file, &mut bytes, 0).expect("readable");
    write_all(&*copied, &bytes, 0).expect("space");
    if let Some(value) = file.attr(OBJECT_ATTR).expect("readable") {
        copied.set_attr(OBJECT_ATTR, &value).expect("space");
    }
}

fn cookie(n: u8) -> CookieKey {
    CookieKey::new(&format!("c{n}")).expect("valid")
}

fn place(n: u8) -> Place {
    Place::new(&volume(), &cookie(n))
}

fn id(object: &dyn CacheObject) -> u64 {
    rustix::fs::fstat(object.file()).expect("open").st_ino
}

#[derive(Clone, Copy, Debug)]
enum ByHand {
    Remove,
    RenameAndCopy,
    MoveVolumeAndCopy,
    BuryVolume,
}

#[derive(Clone, Debug)]
enum Event {
    Use { n: u8, pages: u64, commit: bool },
    Replace { n: u8 },
    Remove { n: u8 },
    TakeAway { n: u8 },
    Cull,
    Maintain,
    Volume,
    CleanEnd,
    Kill,
    PowerLoss { clean: bool, seed: u64 },
    ByHand { n: u8, what: ByHand, is_clean: bool },
}

fn event() -> impl Strategy<Value = Event> {
    let what = prop_oneof![
        Just(ByHand::Remove),
        Just(ByHand::RenameAndCopy),
        Just(ByHand::MoveVolumeAndCopy),
        Just(ByHand::BuryVolume),
    ];
    prop_oneof![
        8 => (0..COOKIES, 0u64..8, any::<bool>()).prop_map(|(n, pages, commit)| Event::Use { n, pages, commit }),
        1 => (0..COOKIES).prop_map(|n| Event::Replace { n }),
        1 => (0..COOKIES).prop_map(|n| Event::Remove { n }),
        1 => (0..COOKIES).prop_map(|n| Event::TakeAway { n }),
        1 => Just(Event::Cull),
        1 => Just(Event::Maintain),
        1 => Just(Event::Volume),
        3 => Just(Event::CleanEnd),
        1 => Just(Event::Kill),
        2 => (any::<bool>(), any::<u64>()).prop_map(|(clean, seed)| Event::PowerLoss { clean, seed }),
        3 => (0..COOKIES, what, any::<bool>()).prop_map(|(n, what, is_clean)| Event::ByHand { n, what, is_clean }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn p1_whatever_happens_a_handle_leads_to_the_file_that_the_path_leads_to(
        seed: u64,
        events in proptest::collection::vec((event(), proptest::option::of((0u64..12, any::<bool>()))), 1..40),
    ) {
        let mut world = World::new(seed);
        for (event, stop) in &events {
            match stop.filter(|_| !matches!(event, Event::ByHand { .. })) {
                None => world.step(event),
                Some((after, applied)) => {
                    let stop = Stop { step: world.disk().steps() + after, applied };
                    world.disk().stop_at(Some(stop));
                    let stepped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.step(event)));
                    world.disk().stop_at(None);
                    match stepped {
                        Ok(()) => {}
                        Err(payload) if payload.is::<super::Stopped>() => {
                            world.die();
                            world.open();
                        }
                        Err(payload) => std::panic::resume_unwind(payload),
                    }
                }
            }
            for n in 0..COOKIES {
                world.let_go(n, world.acquire(n));
            }
        }
    }
}

#[test]
fn a_look_up_opens_by_its_handle_what_was_let_go_walked_through_or_kept_through_a_clean_end() {
    let mut world = World::new(0);
    let whole = ObjectRange::at(0, SIZE);
    for (n, written) in [None, Some(ObjectRange::at(0, PAGE)), Some(whole)].into_iter().enumerate() {
        let n = u8::try_from(n).expect("few");
        let object = world.acquire(n);
        if let Some(written) = written {
            fill(&*object, written).expect("space");
            object.commit().expect("a healthy disk");
        }
        world.let_go(n, object);
    }
    let all = |world: &World| [0, 1, 2].map(|n| world.by_handle(n));
    assert_eq!(all(&world), [1; 3], "let go");
    world.step(&Event::CleanEnd);
    assert_eq!(all(&world), [1; 3], "a clean end");
    world.step(&Event::Kill);
    assert_eq!(all(&world), [1; 3], "a walk");
}

#[test]
fn what_was_found_by_its_path_is_opened_by_its_handle_the_next_time() {
    for what in [ByHand::RenameAndCopy, ByHand::MoveVolumeAndCopy] {
        let mut world = World::new(0);
        let object = world.acquire(0);
        fill(&*object, ObjectRange::at(0, SIZE)).expect("space");
        object.commit().expect("a healthy disk");
        world.let_go(0, object);
        world.step(&Event::ByHand { n: 0, what, is_clean: true });
        world.by_handle(0);
        assert_eq!(world.by_handle(0), 1, "{what:?}");
        assert!(world.acquire(0).is_complete(), "{what:?}");
    }
}
