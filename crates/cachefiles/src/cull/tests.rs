//! Who waits for room, and what makes it.

use std::sync::Arc;

use larder_fscache::{Backend as _, CookieKey, ObjectSpec, VolumeKey};

use super::*;
use crate::ledger::Ledger;
use crate::seat::Seat;
use crate::storage::sim::SimDisk;
use crate::store::Parts;
use crate::walk::Progress;
use crate::{BootId, Cachefiles, Limits, NoHolder};

const QUOTA: u64 = 1 << 20;

fn store_on(disk: &SimDisk, ledger: Ledger, walk: Progress) -> Store {
    let parts = Parts::over(Arc::new(disk.clone()), BootId::from_bytes([1; 16]), Arc::new(NoHolder));
    Store::new(Parts { ledger, walk, ..parts })
}

fn with_quota() -> Limits {
    Limits { quota: Some(QUOTA), ..Limits::default() }
}

#[test]
fn p2_a_writer_waits_for_the_walk_however_many_folders_that_has() {
    let ledger = Ledger::new(with_quota(), 0, QUOTA, 0, QUOTA);
    let store = store_on(&SimDisk::new(0), ledger, Progress::default());
    thread::scope(|scope| {
        let writer = scope.spawn(|| store.draw(Goal { bytes: 1, files: 0 }).map(drop));
        // Each wakes the writer, which finds no room.
        for _ in 0..4 * TRIES_MAX {
            thread::sleep(Duration::from_millis(1));
            store.walk.add(1);
        }
        store.walk();
        writer.join().expect("no panic").expect("the walk has found that there is room");
    });
}

#[test]
fn p5_where_a_full_disk_has_no_room_for_a_greater_reserve_what_is_idle_makes_room() {
    let disk = SimDisk::new(0);
    let reserve = 64 << 10;
    let store = Arc::new(store_on(&disk, Ledger::new(with_quota(), 0, 0, 0, reserve), Progress::done()));
    let cache = Cachefiles::over(Arc::clone(&store)).expect("fit");
    let (volume, key) = (VolumeKey::new("v").expect("valid"), CookieKey::new("idle").expect("valid"));
    let idle = cache.acquire(&volume, &key, &ObjectSpec::of_size(4096)).expect("space");
    idle.write(0, &[7; 4096]).expect("space");
    drop(idle);
    disk.fill_up(true);
    let freed = disk.clone();
    disk.after_next("unlink", move || freed.fill_up(false));
    store.draw(Goal { bytes: reserve + 1, files: 0 }).map(drop).expect("there is an idle object");
    assert!(store.ledger.reserve() > reserve && cache.usage().objects == 0);
}

#[test]
fn what_is_idle_is_culled_however_much_that_is_older_is_in_use() {
    let disk = SimDisk::new(0);
    let store = Arc::new(store_on(&disk, Ledger::new(Limits::default(), 0, 0, 0, 0), Progress::done()));
    let cache = Cachefiles::over(Arc::clone(&store)).expect("fit");
    let (volume, key) = (VolumeKey::new("v").expect("valid"), CookieKey::new("idle").expect("valid"));
    drop(cache.acquire(&volume, &key, &ObjectSpec::of_size(4096)).expect("space"));
    let in_use = |n: usize| {
        let name = (volume.clone(), CookieKey::new(&format!("c{n}")).expect("valid"));
        // Older than the idle one, many of the same time.
        store.index.put(&name, Row { used_ms: n as u64 / 8, ..Row::default() });
        store.objects.get_or_open(&name, |lease| Ok::<_, io::Error>(Seat::new(lease))).expect("made")
    };
    let seats: Vec<_> = (0..2 * VICTIMS_MAX + 1).map(in_use).collect();
    assert_eq!(store.cull(Goal { bytes: 1, files: 0 }).objects, 1);
    assert_eq!(store.cull(Goal { bytes: 1, files: 0 }), Culled::default(), "and this ends");
    drop(seats);
}
