//! What is taken away, replaced, kept and counted, on a real directory.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

use larder_fscache::{ObjectRange, Run};
use tempfile::TempDir;

use super::*;
use crate::Culled;
use crate::holder::tests::MapHolder;

const PAGE: u64 = 4096;
const SIZE: u64 = 8 * PAGE;

/// A cache on a directory, reopened cleanly or not.
struct World {
    root: TempDir,
    cache: Option<Cachefiles>,
    limits: Limits,
}

impl World {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        let mut world = Self { root: tempfile::tempdir().expect("a directory"), cache: None, limits };
        world.reopen();
        world
    }

    fn reopen(&mut self) {
        self.cache = None;
        let boot_id = BootId::from_bytes([1; 16]);
        let holder = Arc::new(MapHolder::default());
        let config =
            Config { limits: self.limits, ..Config::new(self.root.path().to_owned(), boot_id, holder) };
        self.cache = Some(Cachefiles::open(config).expect("fit"));
        self.wait_for_walk();
    }

    fn wait_for_walk(&self) {
        while self.is_walking() {
            thread::yield_now();
        }
    }

    fn acquire(&self, name: &str, spec: &ObjectSpec) -> Arc<dyn CacheObject> {
        self.cache().acquire(&volume(), &key(name), spec).expect("space")
    }

    /// An idle object with all its bytes, whose blocks begin with the byte `fill`.
    fn full(&self, name: &str, size: u64, fill: u8) {
        let object = self.acquire(name, &ObjectSpec::of_size(size));
        let piece = vec![fill; 1 << 20];
        let mut at = 0;
        while at < size {
            let len = usize::try_from(size - at).expect("small").min(piece.len());
            object.write(at, &piece[..len]).expect("space");
            at += len as u64;
        }
        object.commit().expect("a healthy disk");
        drop(object);
        self.relinquish(name);
        // Recency is in milliseconds: the next one is used later.
        let now = self.cache().store.now_ms();
        while self.cache().store.now_ms() == now {
            thread::yield_now();
        }
    }

    fn relinquish(&self, name: &str) {
        self.cache().relinquish(&volume(), &key(name)).expect("idle");
    }

    fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        self.objects(|object| {
            names.push(object.cookie.as_str().to_owned());
            std::ops::ControlFlow::Continue(())
        });
        names
    }

    fn cache(&self) -> &Cachefiles {
        self.cache.as_ref().expect("open")
    }

    /// Bytes that files below a folder of the root take.
    fn stored(&self, folder: &str) -> u64 {
        fn sum(dir: &Path) -> u64 {
            fs::read_dir(dir)
                .expect("readable")
                .map(|entry| {
                    let found = entry.as_ref().expect("readable").metadata().expect("there");
                    if found.is_dir() { sum(&entry.expect("readable").path()) } else { found.blocks() * 512 }
                })
                .sum()
        }
        sum(&self.root.path().join(folder))
    }
}

impl std::ops::Deref for World {
    type Target = Cachefiles;

    fn deref(&self) -> &Cachefiles {
        self.cache()
    }
}

fn volume() -> VolumeKey {
    VolumeKey::new("v").expect("valid")
}

fn key(text: &str) -> CookieKey {
    CookieKey::new(text).expect("valid")
}

fn with_aux(aux: &[u8]) -> ObjectSpec {
    ObjectSpec { size: SIZE, aux: AuxData::new(aux).expect("short") }
}

fn read(object: &dyn CacheObject, at: u64) -> u8 {
    let mut byte = [0];
    assert_eq!(object.read_at(at, &mut byte).expect("readable"), 1);
    byte[0]
}

#[test]
fn a_resize_keeps_the_blocks_that_both_sizes_have_whole_and_withdraws_the_old() {
    for (size, kept) in [(3 * PAGE + 1, 3 * PAGE), (SIZE + 5, SIZE), (2 * PAGE, 2 * PAGE)] {
        for sealed in [false, true] {
            let world = World::new();
            let old = world.acquire("a", &ObjectSpec::of_size(SIZE));
            old.write(0, &[7; 8 * 4096]).expect("space");
            if sealed {
                old.commit().expect("a healthy disk");
            }
            let generation = old.generation();
            let new = world.cache().resize(&volume(), &key("a"), &ObjectSpec::of_size(size)).expect("space");
            assert_eq!((new.size(), new.present_bytes()), (size, kept), "sealed {sealed}");
            assert_eq!((read(&*new, 0), read(&*new, kept - 1)), (7, 7));
            assert!(old.generation() > generation && old.probe(0) == Run::Hole { until: SIZE });
            assert!(old.write(0, &[1]).is_err() && old.read_at(0, &mut [0]).is_err());
            new.commit().expect("a healthy disk");
            drop((old, new));
            world.relinquish("a");
            assert_eq!(world.acquire("a", &ObjectSpec::of_size(size)).present_bytes(), kept, "durable");
        }
    }
}

#[test]
fn a_resize_through_a_cookie_keeps_what_is_cached() {
    let root = tempfile::tempdir().expect("a directory");
    let config = Config::new(root.path().to_owned(), BootId::from_bytes([1; 16]), Arc::new(crate::NoHolder));
    let cache = larder_fscache::Cache::new(Cachefiles::open(config).expect("fit"));
    let volume = cache.acquire_volume(&volume(), &AuxData::default()).expect("space");
    let cookie = volume.acquire_cookie(&key("a"), &ObjectSpec::of_size(SIZE)).expect("new");
    let in_use = cookie.use_cookie().expect("space");
    in_use.begin_write_operation().expect("active").write(0, &[7; 8 * 4096]).expect("space");
    cookie.resize(SIZE + PAGE).expect("a healthy disk");
    assert_eq!(in_use.begin_read_operation().expect("active").present_bytes(), SIZE);
}

#[test]
fn replace_begins_anew_while_the_old_one_is_alive_and_charges_both() {
    let world = World::new();
    let old = world.acquire("a", &with_aux(b"1"));
    old.write(0, &[7; 8 * 4096]).expect("space");
    old.commit().expect("a healthy disk");
    let before = world.usage().charged_bytes;
    let new = world.cache().replace(&volume(), &key("a"), &with_aux(b"2")).expect("space");
    assert_eq!((new.present_bytes(), old.present_bytes()), (0, 0));
    assert!(world.usage().charged_bytes > before, "the old file still takes its blocks");
    new.write(0, &[8; 4096]).expect("space");
    assert!(matches!(old.write(0, &[7; 4096]), Err(CacheError::Withdrawn { .. })));
    old.commit().expect("nothing to do");
    drop(old);
    new.commit().expect("a healthy disk");
    drop(new);
    assert!(world.usage().charged_bytes < before, "one block and a map");
    world.relinquish("a");
    let again = world.acquire("a", &with_aux(b"2"));
    assert_eq!((again.present_bytes(), read(&*again, 0)), (PAGE, 8));
    drop(again);
    world.relinquish("a");
    assert_eq!(world.acquire("a", &with_aux(b"1")).present_bytes(), 0, "the old is gone for good");
}

#[test]
fn a_replace_that_fails_leaves_nothing_of_the_old_and_a_right_charge() {
    for alive in [false, true] {
        let world = World::with(Limits { quota: Some(1 << 20), ..Limits::default() });
        let old = world.acquire("a", &with_aux(b"1"));
        old.write(0, &[7; 8 * 4096]).expect("space");
        old.commit().expect("a healthy disk");
        let old = Some(old).filter(|_| alive);
        let large = ObjectSpec { size: 1 << 39, ..with_aux(b"1") };
        let failed = world.cache().replace(&volume(), &key("a"), &large).map(drop);
        assert!(
            matches!(failed, Err(CacheError::NoSpace { .. })),
            "its map alone passes the quota: {failed:?}"
        );
        drop(old);
        assert_eq!(world.usage().charged_bytes, 0, "alive {alive}");
        assert_eq!(world.acquire("a", &with_aux(b"1")).present_bytes(), 0, "alive {alive}");
    }
}

#[test]
fn withdraw_makes_everything_a_hole_and_the_next_acquire_has_what_was_durable() {
    let world = World::new();
    let object = world.acquire("a", &ObjectSpec::of_size(SIZE));
    object.write(0, &[7; 4096]).expect("space");
    object.commit().expect("a healthy disk");
    let generation = object.generation();
    object.withdraw();
    assert_eq!((object.present_bytes(), object.probe(0)), (0, Run::Hole { until: SIZE }));
    assert!(object.generation() > generation);
    assert!(matches!(object.write(0, &[1; 4096]), Err(CacheError::Withdrawn { .. })));
    let again = world.acquire("a", &ObjectSpec::of_size(SIZE));
    assert_eq!((again.present_bytes(), read(&*again, 0)), (PAGE, 7));
    let charged = world.usage().charged_bytes;
    drop(object);
    assert_eq!(world.usage().charged_bytes, charged, "the one that sits there answers for the file");
}

#[test]
fn a_volume_with_other_coherency_data_moves_to_the_graveyard_and_is_deleted_at_leisure() {
    let mut world = World::new();
    let (one, two) = (AuxData::new(b"1").expect("short"), AuxData::new(b"2").expect("short"));
    world.acquire_volume(&volume(), &one).expect("space");
    world.full("a", SIZE, 7);
    let alive = world.acquire("b", &ObjectSpec::of_size(SIZE));
    alive.write(0, &[7; 4096]).expect("space");
    world.acquire_volume(&volume(), &one).expect("the same");
    assert_eq!((world.names().len(), alive.present_bytes()), (2, PAGE));
    world.acquire_volume(&volume(), &two).expect("space");
    assert_eq!((world.names().len(), alive.present_bytes()), (0, 0));
    assert!(matches!(alive.write(0, &[1; 4096]), Err(CacheError::Withdrawn { .. })));
    let buried = world.stored("graveyard");
    assert!(buried >= SIZE + PAGE && world.usage().charged_bytes >= buried, "still charged: {buried}");
    drop(alive);
    assert!(world.usage().charged_bytes >= buried, "the graveyard stays charged");
    world.maintain().expect("a healthy disk");
    assert_eq!((world.stored("graveyard"), world.usage().charged_bytes), (0, 0));
    assert!(fs::read_dir(world.root.path().join("graveyard")).expect("there").next().is_none());
    world.reopen();
    world.acquire_volume(&volume(), &two).expect("the same");
    assert_eq!(world.acquire("a", &ObjectSpec::of_size(SIZE)).present_bytes(), 0);
}

#[test]
fn the_graveyard_is_emptied_in_steps_and_by_one_at_a_time() {
    let world = World::new();
    for round in 0..4 {
        world.acquire_volume(&volume(), &AuxData::new(&[round]).expect("short")).expect("space");
        world.full("a", SIZE, 7);
        world.full("b", SIZE, 7);
    }
    let charged = world.usage().charged_bytes;
    assert!(!world.store.empty_graveyard(1).expect("a healthy disk"), "six files wait");
    assert!(world.usage().charged_bytes < charged);
    let store = &world.store;
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| while !store.empty_graveyard(1).expect("nobody is in the way") {});
        }
    });
    let rows: u64 = {
        let mut sum = 0;
        store.index.visit(|_, row| {
            sum += row.charge();
            std::ops::ControlFlow::Continue(())
        });
        sum
    };
    assert_eq!((world.usage().charged_bytes, world.stored("graveyard")), (rows, 0));
}

#[test]
fn p1_invalidate_range_makes_no_hole_under_whoever_has_the_file_open() {
    let world = World::new();
    world.full("a", SIZE, 7);
    // What a mount of a worker that is dead has.
    let mounted = world.open_idle(&volume(), &key("a")).expect("idle").expect("there");
    let range = ObjectRange::at(PAGE, PAGE);
    let refused = world.invalidate_range(&volume(), &key("a"), range);
    assert!(matches!(refused, Err(CacheError::Busy { .. })), "{refused:?}");
    let mut bytes = vec![0; usize::try_from(SIZE).expect("small")];
    mounted.read_exact_at(0, &mut bytes).expect("all of it is there");
    assert!(bytes.iter().all(|byte| *byte == 7), "a hole was made under a reader");
    drop(mounted);
    assert_eq!(world.invalidate_range(&volume(), &key("a"), range).expect("idle"), PAGE);
}

#[test]
fn invalidate_range_gives_whole_blocks_back_and_spares_what_is_in_use() {
    let world = World::new();
    world.full("a", SIZE, 7);
    let before = world.usage();
    let range = ObjectRange::at(PAGE + 1, PAGE);
    assert_eq!(world.invalidate_range(&volume(), &key("a"), range).expect("idle"), 2 * PAGE);
    assert_eq!(world.usage().stored_bytes, world.stored("cache"));
    assert!(world.stored("cache") < before.stored_bytes + PAGE, "two blocks for a map");
    let object = world.acquire("a", &ObjectSpec::of_size(SIZE));
    assert_eq!(
        (object.present_bytes(), object.probe(PAGE)),
        (SIZE - 2 * PAGE, Run::Hole { until: 3 * PAGE })
    );
    assert_eq!((read(&*object, 0), read(&*object, 3 * PAGE)), (7, 7));
    let busy = world.invalidate_range(&volume(), &key("a"), range);
    assert!(matches!(busy, Err(CacheError::Busy { .. })), "{busy:?}");
    object.write(PAGE, &[8; 8192]).expect("it can be filled again");
    object.commit().expect("a healthy disk");
    assert!(object.is_complete());
    drop(object);
    let held = world.invalidate_range(&volume(), &key("a"), range);
    assert!(matches!(held, Err(CacheError::Busy { .. })), "the keeper still has it: {held:?}");
    assert_eq!(world.invalidate_range(&volume(), &key("none"), range).expect("idle"), 0);
}

#[test]
fn prune_removes_what_its_policy_says_and_nothing_that_is_pinned_or_in_use() {
    let world = World::new();
    let in_use = world.acquire("use", &ObjectSpec::of_size(SIZE));
    ["a", "b", "c", "pin"].iter().for_each(|name| world.full(name, SIZE, 7));
    assert!(world.pin(&volume(), &key("pin")).expect("space"));
    let other = Prune { volume: Some(VolumeKey::new("w").expect("valid")), ..Prune::default() };
    assert_eq!(world.prune(&other).expect("a healthy disk"), Culled::default());
    let long_ago = SystemTime::now() - Duration::from_secs(3600);
    let unused = Prune { unused_since: Some(long_ago), ..Prune::default() };
    assert_eq!(world.prune(&unused).expect("a healthy disk"), Culled::default());
    let one_less = world.usage().stored_bytes - 1;
    let culled =
        world.prune(&Prune { until_bytes: Some(one_less), ..Prune::default() }).expect("a healthy disk");
    assert_eq!((culled.objects, world.names()), (1, ["b", "c", "pin", "use"].map(str::to_owned).to_vec()));
    assert_eq!(world.usage().stored_bytes, world.stored("cache"));
    world.prune(&Prune::default()).expect("a healthy disk");
    assert_eq!(world.names(), ["pin", "use"]);
    drop(in_use);
}

#[test]
fn a_pin_survives_a_reopen_and_a_rebuilt_index_and_unpin_ends_it() {
    let mut world = World::new();
    world.full("a", SIZE, 7);
    assert!(!world.pin(&volume(), &key("none")).expect("a healthy disk"));
    assert!(world.pin(&volume(), &key("a")).expect("space"));
    for clean in [true, false] {
        world.cache = None;
        if !clean {
            fs::remove_file(world.root.path().join(INDEX)).expect("there");
        }
        world.reopen();
        assert!(world.object_info(&volume(), &key("a")).expect("there").pinned, "clean {clean}");
        assert_eq!(world.cull(u64::MAX, 0), Culled::default());
    }
    assert!(world.unpin(&volume(), &key("a")).expect("a healthy disk"));
    world.reopen();
    assert_eq!(world.cull(u64::MAX, 0).objects, 1);
}

#[test]
fn culling_takes_whole_objects_the_least_recently_used_first() {
    let world = World::new();
    ["a", "b", "c", "d"].iter().for_each(|name| world.full(name, SIZE, 7));
    // The oldest is used again, and the next is in use.
    drop(world.acquire("a", &ObjectSpec::of_size(SIZE)));
    world.relinquish("a");
    let in_use = world.acquire("b", &ObjectSpec::of_size(SIZE));
    assert_eq!(world.cull(1, 0).objects, 1);
    assert_eq!(world.names(), ["a", "b", "d"]);
    assert_eq!(world.cull(0, 1).files, 1);
    assert_eq!(world.names(), ["a", "b"]);
    assert_eq!(world.cull(u64::MAX, 0).objects, 1);
    assert_eq!(world.names(), ["b"]);
    assert_eq!((in_use.present_bytes(), read(&*in_use, SIZE - 1)), (SIZE, 7));
}

#[test]
fn culling_punches_the_end_of_the_last_large_object_and_keeps_its_beginning() {
    let world = World::new();
    let size = 100 << 20;
    world.full("old", SIZE, 7);
    world.full("large", size, 7);
    let culled = world.cull(1 << 20, 0);
    assert_eq!((culled.objects, world.names().len()), (1, 1), "the whole one first");
    assert!(culled.bytes >= 1 << 20);
    let stored = world.stored("cache");
    assert!(stored >= 64 << 20 && stored < size, "{stored}");
    assert_eq!(world.usage().stored_bytes, stored);
    let object = world.acquire("large", &ObjectSpec::of_size(size));
    let Run::Present { until } = object.probe(0) else { panic!("the beginning is there") };
    assert_eq!((read(&*object, 0), read(&*object, until - 1)), (7, 7));
    assert_eq!(object.probe(until), Run::Hole { until: size });
    assert_eq!(object.present_bytes(), until);
}

#[test]
fn p1_no_range_is_punched_out_of_a_file_that_anybody_reads() {
    let world = World::new();
    let size = 100 << 20;
    world.full("large", size, 7);
    // As the kernel has it open for a mount whose daemon is dead.
    let path = world.root.path().join(Place::new(&volume(), &key("large")).data);
    let reader = fs::File::open(path).expect("there");
    assert_eq!(world.cull(1 << 20, 0).objects, 1, "it can only go whole");
    let mut last = [0; 1];
    for at in [0, size - (1 << 20)] {
        std::os::unix::fs::FileExt::read_exact_at(&reader, &mut last, at).expect("readable");
        assert_eq!(last, [7], "{at}");
    }
}

#[test]
fn maintain_culls_from_the_cull_limit_up_to_the_run_limit_of_the_quota() {
    // Of 4 MiB: culling begins when less than 5 % are free, and ends at 7 %.
    let world = World::with(Limits { quota: Some(4 << 20), ..Limits::default() });
    for n in 0..14 {
        world.full(&format!("{n:02}"), 256 << 10, 7);
    }
    assert_eq!(world.maintain().expect("a healthy disk"), Culled::default(), "enough is free");
    world.full("14", 256 << 10, 7);
    let culled = world.maintain().expect("a healthy disk");
    assert_eq!((culled.objects, world.names()[0].as_str()), (1, "01"));
    assert!(world.usage().charged_bytes <= (4 << 20) * 93 / 100);
    assert_eq!(world.maintain().expect("a healthy disk"), Culled::default(), "the run limit is reached");
}

#[test]
fn p5_a_reserve_from_before_a_time_without_a_quota_counts_no_more() {
    let quota = Some(1 << 20);
    let mut world = World::with(Limits { quota, ..Limits::default() });
    world.full("a", SIZE, 7);
    world.cache = None;
    fs::write(world.root.path().join("reserve"), bind::encode_reserve(2 * SIZE)).expect("space");
    world.limits.quota = None;
    world.reopen();
    ["b", "c"].iter().for_each(|name| world.full(name, 256 << 10, 7));
    world.cache = None;
    fs::remove_file(world.root.path().join(INDEX)).expect("there");
    assert_eq!(bind::read_reserve(&Disk::open(world.root.path()).expect("there")), None);
    // Now the quota itself is what the next start reckons with.
    world.limits.quota = quota;
    world.reopen();
    assert!(world.usage().charged_bytes >= world.stored("cache"));
}

#[test]
fn p5_a_graveyard_that_cannot_be_emptied_keeps_upkeep_from_nothing() {
    let world = World::with(Limits { quota: Some(4 << 20), ..Limits::default() });
    for n in 0..15 {
        world.full(&format!("{n:02}"), 256 << 10, 7);
    }
    fs::create_dir_all(world.root.path().join("graveyard/a/b/c/d/e")).expect("space");
    assert!(world.maintain().is_err());
    assert!(world.usage().charged_bytes <= (4 << 20) * 93 / 100, "{:?}", world.usage());
}

#[test]
fn p5_after_an_unclean_end_the_reserve_on_the_disk_comes_down_to_what_was_found() {
    let mut world = World::with(Limits { quota: Some(1 << 40), ..Limits::default() });
    world.full("a", SIZE, 7);
    world.cache = None;
    fs::remove_file(world.root.path().join(INDEX)).expect("there");
    fs::write(world.root.path().join("reserve"), bind::encode_reserve(1 << 39)).expect("space");
    world.reopen();
    let used = world.usage().charged_bytes;
    let found = bind::read_reserve(&*world.store.storage).expect("whole");
    assert!(found >= used && found <= used + crate::ledger::RESERVE_BYTES, "{found} reserved, {used} used");
    world.full("b", SIZE, 7);
}

#[test]
fn p4_an_index_closed_under_living_objects_is_whole_unless_anything_changes_afterwards() {
    type Change = fn(&World, &dyn CacheObject);
    let changes: [(bool, Change); 9] = [
        (true, |_, _| ()),
        (true, |world, _| world.cache().close_index()),
        (true, |world, _| assert_eq!(world.maintain().expect("a healthy disk"), Culled::default())),
        (false, |_, object| object.commit().expect("a healthy disk")),
        (false, |world, _| assert!(world.pin(&volume(), &key("a")).expect("space"))),
        (false, |_, object| object.write(PAGE, &[8; 4096]).expect("space")),
        (false, |world, _| drop(world.acquire("new", &ObjectSpec::of_size(SIZE)))),
        (false, |world, _| world.cache().remove(&volume(), &key("idle")).expect("idle")),
        (false, |world, _| drop(world.cache().replace(&volume(), &key("a"), &ObjectSpec::of_size(SIZE)))),
    ];
    for (n, (is_whole, change)) in changes.into_iter().enumerate() {
        let mut world = World::with(Limits { quota: Some(1 << 30), ..Limits::default() });
        world.full("idle", SIZE, 7);
        let object = world.acquire("a", &ObjectSpec::of_size(SIZE));
        object.write(0, &[7; 4096]).expect("space");
        // Written twice: charged twice, until the object is looked at.
        object.write(0, &[7; 4096]).expect("space");
        object.commit().expect("a healthy disk");
        object.write(2 * PAGE, &[7; 4096]).expect("space");
        world.cache().close_index();
        change(&world, &*object);
        // As when the process ends with everything in use.
        std::mem::forget((object, world.cache.take()));
        fs::remove_file(world.root.path().join("lock")).expect("there");
        let sealed = world.root.path().join("index.seal").exists();
        assert_eq!(sealed, is_whole, "change {n}");
        world.reopen();
        let usage = world.usage();
        assert_eq!(usage.stored_bytes, world.stored("cache"), "change {n}");
        assert_eq!(world.object_info(&volume(), &key("a")).map(|info| info.size), Some(SIZE), "change {n}");
        let mut rows = 0;
        world.store.index.visit(|_, row| {
            rows += row.charge();
            std::ops::ControlFlow::Continue(())
        });
        assert_eq!(usage.charged_bytes, rows, "change {n}");
    }
}

#[test]
fn a_walk_that_leaves_something_finds_the_rest_and_upkeep_finds_what_was_left() {
    let mut world = World::new();
    world.full("a", SIZE, 7);
    world.cache = None;
    fs::remove_file(world.root.path().join(INDEX)).expect("there");
    // Deeper than any grave: the walk refuses.
    let deep = world.root.path().join("graveyard/a/b/c/d/e");
    for is_reopened in [false, true] {
        fs::create_dir_all(&deep).expect("space");
        fs::write(world.root.path().join("graveyard/b"), "goes all the same").expect("space");
        world.reopen();
        assert!(world.usage().rebuilding && world.maintain().is_err());
        world.wait_for_walk();
        assert_eq!((world.usage().objects, world.usage().rebuilding), (1, true));
        assert!(!world.root.path().join("graveyard/b").exists());
        fs::remove_dir_all(world.root.path().join("graveyard/a")).expect("there");
        if is_reopened {
            world.reopen();
        } else {
            world.maintain().expect("a healthy disk");
            world.wait_for_walk();
            world.cache = None;
            fs::remove_file(world.root.path().join("index.seal")).expect("the index is whole");
            continue;
        }
        let usage = world.usage();
        assert_eq!((usage.objects, usage.stored_bytes, usage.rebuilding), (1, world.stored("cache"), false));
    }
}

#[test]
fn a_walk_passes_what_is_no_file() {
    let mut world = World::new();
    ["a", "b"].iter().for_each(|name| world.full(name, SIZE, 7));
    world.cache = None;
    let data = world.root.path().join(Place::new(&volume(), &key("a")).data);
    fs::remove_file(&data).expect("there");
    std::os::unix::fs::symlink("nowhere", &data).expect("space");
    fs::remove_file(world.root.path().join(INDEX)).expect("there");
    world.reopen();
    assert_eq!((world.names(), world.usage().rebuilding), (vec!["b".to_owned()], false));
}

#[test]
fn a_walk_drops_files_that_are_another_object_by_name_or_length() {
    let mut world = World::new();
    ["a", "b", "short"].iter().for_each(|name| world.full(name, SIZE, 7));
    world.cache = None;
    let data = |name: &str| world.root.path().join(Place::new(&volume(), &key(name)).data);
    fs::rename(data("a"), data("b")).expect("there");
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(data("short"), fs::Permissions::from_mode(0o600)).expect("ours");
    fs::OpenOptions::new().write(true).open(data("short")).expect("ours").set_len(1).expect("ours");
    fs::remove_file(world.root.path().join(INDEX)).expect("there");
    world.reopen();
    assert_eq!((world.usage().objects, world.stored("cache")), (0, 0));
}
