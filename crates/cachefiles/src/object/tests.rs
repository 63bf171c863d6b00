//! Objects on a real directory: what survives what.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use larder_fscache::{Backend, CacheObject, CookieKey, ObjectRange, ObjectSpec, Run, VolumeKey};
use tempfile::TempDir;

use crate::holder::tests::MapHolder;
use crate::layout::Place;
use crate::{BootId, Cachefiles, Config, DescriptorHolder, Limits};

const SIZE: u64 = 10 * 4096 + 100;

/// A machine with a cache directory, a keeper, and at most one worker.
struct Machine {
    root: TempDir,
    keeper: Arc<MapHolder>,
    boot: u8,
}

impl Machine {
    fn new() -> Self {
        Self { root: tempfile::tempdir().expect("a directory"), keeper: Arc::default(), boot: 1 }
    }

    /// Starts a worker and acquires the one object.
    fn start(&self) -> (Cachefiles, Arc<dyn CacheObject>) {
        let cache = self.worker();
        let object = cache.acquire(&volume(), &cookie(), &ObjectSpec::of_size(SIZE)).expect("a healthy disk");
        (cache, object)
    }

    fn worker(&self) -> Cachefiles {
        self.worker_within(Limits::default())
    }

    fn worker_within(&self, limits: Limits) -> Cachefiles {
        let boot_id = BootId::from_bytes([self.boot; 16]);
        let holder = Arc::clone(&self.keeper) as Arc<dyn DescriptorHolder>;
        let config = Config::new(self.root.path().to_owned(), boot_id, holder);
        Cachefiles::open(Config { limits, ..config }).expect("fit")
    }

    /// The keeper is gone and the boot is another; what was written is all on the disk.
    fn reboot(&mut self) {
        self.keeper = Arc::default();
        self.boot += 1;
    }

    fn path(&self, of: impl Fn(&Place) -> String) -> PathBuf {
        self.root.path().join(of(&Place::new(&volume(), &cookie())))
    }

    fn data(&self) -> PathBuf {
        self.path(|place| place.data.clone())
    }

    fn map(&self) -> PathBuf {
        self.path(|place| place.map.clone())
    }

    fn kept(&self) -> Vec<String> {
        let kept = self.keeper.kept.lock().expect("no panic under this lock");
        let mut names: Vec<_> = kept.keys().cloned().collect();
        names.sort();
        names
    }
}

fn volume() -> VolumeKey {
    VolumeKey::new("v").expect("valid")
}

fn cookie() -> CookieKey {
    CookieKey::new("c").expect("valid")
}

fn fill(object: &dyn CacheObject, at: u64, len: usize) {
    object.write(at, &vec![0xab; len]).expect("space");
}

fn first_run(object: &dyn CacheObject) -> Run {
    object.probe_within(ObjectRange::at(0, u64::MAX))
}

#[test]
fn a_new_object_is_sparse_and_all_holes() {
    let machine = Machine::new();
    let (_cache, object) = machine.start();
    assert_eq!((object.present_bytes(), first_run(&*object)), (0, Run::Hole { until: SIZE }));
    let found = fs::metadata(machine.data()).expect("it has its name");
    assert_eq!((found.len(), found.blocks()), (SIZE, 0));
    assert_eq!(object.path(), Some(&*machine.data()));
    assert_eq!(found.ino(), rustix::fs::fstat(object.file()).expect("open").st_ino);
}

#[test]
fn what_was_written_is_read_back_and_counted_to_the_byte() {
    let machine = Machine::new();
    let (_cache, object) = machine.start();
    fill(&*object, 10 * 4096, 100);
    fill(&*object, 4096, 5000);
    assert_eq!(object.present_bytes(), 100 + 4096);
    let mut buf = [0; 100];
    assert_eq!(object.read_at(10 * 4096, &mut buf).expect("readable"), 100);
    assert_eq!(buf, [0xab; 100]);
    assert_eq!(object.probe(4096), Run::Present { until: 8192 });
}

#[test]
fn p4_a_new_worker_goes_on_from_the_live_map_with_the_same_descriptor() {
    let machine = Machine::new();
    let (cache, object) = machine.start();
    fill(&*object, 0, 8192);
    assert_eq!(machine.kept(), ["fill/v/c", "live/v/c", "lock"]);
    drop((cache, object));
    let (_cache, object) = machine.start();
    assert_eq!((object.present_bytes(), first_run(&*object)), (8192, Run::Present { until: 8192 }));
    fill(&*object, 8192, 4096);
    assert_eq!(object.present_bytes(), 3 * 4096);
}

#[test]
fn p1_after_a_reboot_only_the_durable_map_counts() {
    let mut machine = Machine::new();
    let (cache, object) = machine.start();
    fill(&*object, 0, 4096);
    object.commit().expect("a healthy disk");
    fill(&*object, 4096, 4096);
    drop((cache, object));
    machine.reboot();
    let (_cache, object) = machine.start();
    assert_eq!((object.present_bytes(), first_run(&*object)), (4096, Run::Present { until: 4096 }));
}

#[test]
fn p1_a_live_map_of_another_boot_is_not_taken_up() {
    let mut machine = Machine::new();
    let (cache, object) = machine.start();
    fill(&*object, 0, 4096);
    drop((cache, object));
    machine.boot += 1;
    let (_cache, object) = machine.start();
    assert_eq!(object.present_bytes(), 0);
}

#[test]
fn p1_a_worker_that_died_in_a_sync_leaves_only_what_was_durable() {
    let machine = Machine::new();
    let (cache, object) = machine.start();
    fill(&*object, 0, 4096);
    object.commit().expect("a healthy disk");
    fill(&*object, 4096, 4096);
    drop((cache, object));
    let memfd = machine.keeper.take("live/v/c").expect("descriptors are left").expect("kept");
    fs::File::from(memfd).write_all_at(&[1], 4096 - 8).expect("writable");
    let (cache, object) = machine.start();
    assert_eq!(object.present_bytes(), 4096);
    fill(&*object, 4096, 4096);
    drop((cache, object));
    assert_eq!(machine.start().1.present_bytes(), 8192, "the mark is gone again");
}

#[test]
fn a_complete_object_is_sealed_and_costs_nothing_any_more() {
    let mut machine = Machine::new();
    let (cache, object) = machine.start();
    fill(&*object, 0, usize::try_from(SIZE).expect("small"));
    assert!(object.is_complete());
    object.commit().expect("a healthy disk");
    assert_eq!(machine.kept(), ["fill/v/c", "lock"], "the live map is let go");
    let mode = fs::metadata(machine.data()).expect("it has its name").permissions().mode();
    assert_eq!(mode & 0o777, 0o444);
    object.write(5, b"the same again").expect("harmless");
    drop((cache, object));
    machine.reboot();
    let (cache, object) = machine.start();
    assert!(object.is_complete());
    assert_eq!(first_run(&*object), Run::Present { until: SIZE });
    assert_eq!(object.probe(SIZE), Run::Hole { until: u64::MAX });
    object.commit().expect("nothing to do");
    drop(object);
    cache.relinquish(&volume(), &cookie()).expect("idle");
    assert_eq!(machine.kept(), ["lock"]);
}

#[test]
fn an_object_of_no_bytes_is_complete() {
    let machine = Machine::new();
    let cache = machine.worker();
    for _ in 0..2 {
        let object = cache.acquire(&volume(), &cookie(), &ObjectSpec::of_size(0)).expect("space");
        assert!(object.is_complete());
        object.commit().expect("a healthy disk");
    }
}

#[test]
fn p1_a_damaged_or_foreign_map_vouches_for_nothing() {
    type Damage = fn(&[u8]) -> Vec<u8>;
    let damages: [(&str, Damage); 4] = [
        ("bit", |good| good.iter().enumerate().map(|(n, byte)| byte ^ u8::from(n == 48)).collect()),
        ("cut", |good| good[..good.len() - 1].to_vec()),
        ("empty", |_| Vec::new()),
        ("long", |_| vec![7; 1 << 20]),
    ];
    for (name, damage) in damages {
        let mut machine = Machine::new();
        let (cache, object) = machine.start();
        fill(&*object, 0, 4096);
        object.commit().expect("a healthy disk");
        drop((cache, object));
        let good = fs::read(machine.map()).expect("written");
        fs::write(machine.map(), damage(&good)).expect("writable");
        machine.reboot();
        assert_eq!(machine.start().1.present_bytes(), 0, "{name}");
    }
}

#[test]
fn p1_a_data_file_of_another_size_is_dropped_with_its_map() {
    let mut machine = Machine::new();
    let (cache, object) = machine.start();
    fill(&*object, 0, 4096);
    object.commit().expect("a healthy disk");
    drop((cache, object));
    OpenOptions::new().write(true).open(machine.data()).expect("there").set_len(SIZE - 1).expect("writable");
    machine.reboot();
    let (_cache, object) = machine.start();
    assert_eq!(object.present_bytes(), 0);
    assert_eq!(fs::metadata(machine.data()).expect("there").blocks(), 0);
    assert!(!machine.map().exists());
}

#[test]
fn p1_a_data_file_that_was_replaced_is_not_vouched_for() {
    let mut machine = Machine::new();
    let (cache, object) = machine.start();
    fill(&*object, 0, 4096);
    object.commit().expect("a healthy disk");
    let replaced = machine.data().with_extension("new");
    fs::File::create(&replaced).expect("space").set_len(SIZE).expect("sparse");
    fs::rename(&replaced, machine.data()).expect("writable");
    fill(&*object, 4096, 4096);
    let refused = object.commit().expect_err("the name is another file's");
    assert!(refused.to_string().contains("name"), "{refused}");
    drop((cache, object));
    machine.reboot();
    assert_eq!(machine.start().1.present_bytes(), 0);
}

#[test]
fn p1_a_complete_object_whose_file_was_replaced_by_hand_is_not_resized_with_the_other_file() {
    let machine = Machine::new();
    let (cache, object) = machine.start();
    fill(&*object, 0, usize::try_from(SIZE).expect("small"));
    object.commit().expect("a healthy disk");
    fs::remove_file(machine.data()).expect("there");
    fs::File::create(machine.data()).expect("space").set_len(SIZE).expect("sparse");
    let resized = cache.resize(&volume(), &cookie(), &ObjectSpec::of_size(SIZE + 4096)).expect("space");
    assert_eq!(resized.present_bytes(), 0, "what is there are zeros");
}

#[test]
fn a_held_descriptor_is_used_even_when_its_live_map_is_lost() {
    let machine = Machine::new();
    let (cache, object) = machine.start();
    fill(&*object, 0, 4096);
    object.commit().expect("a healthy disk");
    fill(&*object, 4096, 4096);
    let before = rustix::fs::fstat(object.file()).expect("open").st_ino;
    drop((cache, object));
    machine.keeper.release("live/v/c");
    let (_cache, object) = machine.start();
    assert_eq!(object.present_bytes(), 4096);
    assert_eq!(rustix::fs::fstat(object.file()).expect("open").st_ino, before);
}

#[test]
fn p1_a_held_descriptor_of_a_file_that_lost_its_name_counts_only_with_its_map() {
    let machine = Machine::new();
    let (cache, object) = machine.start();
    fill(&*object, 0, 4096);
    drop((cache, object));
    fs::remove_file(machine.data()).expect("there");
    let (cache, object) = machine.start();
    assert_eq!(object.present_bytes(), 4096, "a mount may live on that file");
    assert!(object.commit().is_err());
    drop((cache, object));
    machine.keeper.release("live/v/c");
    assert_eq!(machine.start().1.present_bytes(), 0);
}

#[test]
fn what_was_replaced_is_not_taken_up_again_though_the_keeper_could_not_be_told_of_its_successor() {
    let machine = Machine::new();
    let (cache, old) = machine.start();
    fill(&*old, 0, 4096);
    machine.keeper.is_full.store(true, Ordering::Relaxed);
    drop(cache.replace(&volume(), &cookie(), &ObjectSpec::of_size(SIZE)).expect("a healthy disk"));
    drop((cache, old));
    machine.keeper.is_full.store(false, Ordering::Relaxed);
    let (_cache, object) = machine.start();
    assert_eq!(object.present_bytes(), 0);
    fill(&*object, 0, 4096);
    object.commit().expect("it has its name");
}

#[test]
fn p1_p5_what_a_dead_worker_left_is_let_go_when_nobody_uses_it_and_nobody_has_its_file_open() {
    let machine = Machine::new();
    let (cache, object) = machine.start();
    fill(&*object, 0, 4096);
    assert_eq!(cache.relinquish_unused(), 0, "it is in use");
    drop((cache, object));
    let cache = machine.worker();
    let mount = fs::File::open(machine.data()).expect("there");
    assert_eq!((cache.relinquish_unused(), machine.kept().len()), (0, 3), "a mount may read it");
    drop(mount);
    assert_eq!((cache.relinquish_unused(), machine.kept().len()), (1, 1), "the lock stays");
    while cache.usage().rebuilding {
        std::thread::yield_now();
    }
    assert_eq!(cache.cull(u64::MAX, 0).objects, 1);
}

#[test]
fn p5_a_writer_that_finds_no_room_waits_until_the_kernel_has_closed_what_nobody_uses() {
    let machine = Machine::new();
    let whole = usize::try_from(SIZE).expect("small");
    // Room for one object, its map and what a file system adds, and no second one.
    let cache = machine.worker_within(Limits { quota: Some(2 * SIZE), ..Limits::default() });
    let spec = ObjectSpec::of_size(SIZE);
    let object = cache.acquire(&volume(), &cookie(), &spec).expect("space");
    fill(&*object, 0, whole);
    drop(object);
    let mount = fs::File::open(machine.data()).expect("there");
    let other = CookieKey::new("d").expect("valid");
    let other =
        || cache.acquire(&volume(), &other, &spec).and_then(|object| object.write(0, &vec![7; whole]));
    assert!(other().is_err(), "nobody has said yet that all was taken up");
    cache.relinquish_unused();
    assert!(machine.kept().iter().any(|name| name == "fill/v/c"), "a mount may read it");
    let closing = thread::spawn(move || {
        thread::sleep(Duration::from_millis(30));
        drop(mount);
    });
    other().expect("room, as soon as it is closed");
    closing.join().expect("no panic");
}

#[test]
fn an_error_says_which_cookie_and_what_was_done() {
    let machine = Machine::new();
    let (_cache, object) = machine.start();
    let error = object.write(SIZE, &[1]).expect_err("outside");
    assert_eq!(
        error.to_string(),
        format!("cookie c: {SIZE}..{} lies outside the object of {SIZE} bytes", SIZE + 1)
    );
}
