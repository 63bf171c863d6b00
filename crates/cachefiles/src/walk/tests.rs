//! Walks of which something fails.

use std::sync::Arc;

use larder_fscache::{Backend as _, ObjectSpec};

use super::*;
use crate::ledger::Ledger;
use crate::storage::sim::SimDisk;
use crate::store::Parts;
use crate::{BootId, Cachefiles, Limits, NoHolder};

const OBJECTS: u64 = 8;
const QUOTA: u64 = 1 << 30;

fn volume() -> VolumeKey {
    VolumeKey::new("v").expect("valid")
}

fn key(n: u64) -> CookieKey {
    CookieKey::new(&format!("c{n}")).expect("valid")
}

fn parts(disk: &SimDisk) -> Parts {
    Parts::over(Arc::new(disk.clone()), BootId::from_bytes([1; 16]), Arc::new(NoHolder))
}

/// Puts some objects on the disk; returns what is charged for them.
fn fill(disk: &SimDisk) -> u64 {
    let store = Arc::new(Store::new(parts(disk)));
    let cache = Cachefiles::over(Arc::clone(&store)).expect("fit");
    for n in 0..OBJECTS {
        let object = cache.acquire(&volume(), &key(n), &ObjectSpec::of_size(4096)).expect("space");
        object.write(0, &[7; 4096]).expect("space");
        object.commit().expect("a healthy disk");
    }
    store.ledger.used()
}

fn calls_of_a_walk(disk: &SimDisk) -> u64 {
    let before = disk.calls();
    Store::new(Parts { walk: Progress::default(), ..parts(disk) }).walk();
    disk.calls() - before
}

#[test]
fn p5_whatever_fails_the_walk_goes_on_charges_what_is_there_and_upkeep_completes_it() {
    let disk = SimDisk::new(0);
    let charged = fill(&disk);
    let calls = calls_of_a_walk(&disk);
    assert!(calls > 2 * OBJECTS);
    let (mut left, mut charged_unread) = (0, 0);
    for (after, count) in (0..calls).flat_map(|after| [1, 2, 5, 1000].map(|count| (after, count))) {
        let ledger = Ledger::new(Limits { quota: Some(QUOTA), ..Limits::default() }, 0, QUOTA, 0, QUOTA);
        let store = Arc::new(Store::new(Parts { ledger, walk: Progress::default(), ..parts(&disk) }));
        let cache = Cachefiles::over(Arc::clone(&store)).expect("fit");
        disk.fail_calls(after, count);
        store.walk();
        disk.fail_calls(0, 0);
        assert_eq!(cache.usage().rebuilding, !store.walk.is_whole());
        if !store.walk.is_whole() {
            assert_eq!(store.ledger.used(), QUOTA, "what is not found counts: {count} calls after {after}");
            left += 1;
            cache.maintain().expect("a healthy disk");
            while cache.is_walking() {
                std::thread::yield_now();
            }
        }
        let usage = cache.usage();
        assert_eq!((usage.objects, usage.rebuilding), (OBJECTS, false), "{count} calls after {after}");
        assert!(usage.charged_bytes >= charged);
        charged_unread += u64::from(usage.charged_bytes > charged);
    }
    assert!(
        left > 0 && charged_unread > 0,
        "both must happen: {left} left something, {charged_unread} unread"
    );
}

#[test]
fn what_is_pinned_while_the_walk_is_in_its_folder_is_pinned() {
    let disk = SimDisk::new(0);
    fill(&disk);
    let object = Place::new(&volume(), &key(0));
    // A map without data, in the same folder and before it: the walk removes it, and the pin is set at that moment.
    let before = (0..1u64 << 16).map(|n| CookieKey::new(&format!("a{n}")).expect("valid"));
    let mut before = before.map(|key| Place::new(&volume(), &key)).filter(|place| place.dir == object.dir);
    let map = before.next().expect("there are fewer folders").map;
    let store = Arc::new(Store::new(Parts { walk: Progress::default(), ..parts(&disk) }));
    let cache = Arc::new(Cachefiles::over(Arc::clone(&store)).expect("fit"));
    drop(store.storage.create(&map).expect("space"));
    let pinning = Arc::clone(&cache);
    disk.after_next("unlink", move || assert!(pinning.pin(&volume(), &key(0)).expect("space")));
    store.walk();
    assert!(store.storage.stat(&map).expect("healthy").is_none() && store.walk.is_whole());
    assert!(cache.object_info(&volume(), &key(0)).expect("found").pinned);
    assert_eq!((cache.usage().objects, cache.cull(u64::MAX, 0).objects), (OBJECTS, OBJECTS - 1));
}
