//! The life of cookies, seen through a cache.

use std::sync::Barrier;
use std::sync::atomic::AtomicI32;
use std::thread;
use std::time::Duration;

use super::*;
use crate::memory::Memory;
use crate::{
    CacheObject, CookieKey, InUse, IoSource, ObjectRange, ObjectSpec, OnHole, ReadFlags, State, Why,
};

fn key(text: &str) -> CookieKey {
    CookieKey::new(text).expect("valid")
}

fn volume<B: Backend>(cache: &Cache<B>, name: &str) -> Arc<Volume> {
    cache.acquire_volume(&VolumeKey::new(name).expect("valid"), &AuxData::default()).expect("memory")
}

fn spec(size: u64, version: &[u8]) -> ObjectSpec {
    ObjectSpec { size, aux: AuxData::new(version).expect("short") }
}

fn cookie(cache: &Cache<impl Backend>, size: u64) -> Arc<Cookie> {
    volume(cache, "v").acquire_cookie(&key("c"), &ObjectSpec::of_size(size)).expect("memory")
}

fn write(in_use: &InUse, at: u64, bytes: &[u8]) {
    in_use.begin_write_operation().expect("open").write(at, bytes).expect("fits");
}

#[test]
fn the_same_key_twice_is_the_same_cookie_and_volumes_do_not_share() {
    let cache = Cache::new(Memory::new());
    let first = cookie(&cache, 100);
    assert!(Arc::ptr_eq(&first, &cookie(&cache, 100)));
    let elsewhere = volume(&cache, "w").acquire_cookie(&key("c"), &ObjectSpec::of_size(100)).expect("memory");
    write(&first.use_cookie().expect("memory"), 0, &[1; 100]);
    let there = elsewhere.use_cookie().and_then(|cookie| cookie.begin_read_operation()).expect("memory");
    assert_eq!(there.present_bytes(), 0);
    let counts = cache.counts();
    assert_eq!((counts.acquires, counts.acquires_shared, counts.lookups_empty), (3, 1, 2));
}

#[test]
fn a_cookie_is_not_given_out_under_another_specification() {
    let cache = Cache::new(Memory::new());
    let _first = cookie(&cache, 100);
    let volume = volume(&cache, "v");
    let longer = volume.acquire_cookie(&key("c"), &spec(101, b""));
    assert!(matches!(longer, Err(Error::Size { expected: 101, found: 100, .. })), "{longer:?}");
    let newer = volume.acquire_cookie(&key("c"), &spec(100, b"2"));
    assert!(matches!(newer, Err(Error::Coherency { .. })), "{newer:?}");
    let trusted_otherwise = cache.acquire_volume(volume.key(), &AuxData::new(b"2").expect("short"));
    assert!(matches!(trusted_otherwise.map(|_| ()), Err(Error::Coherency { .. })));
}

#[test]
fn nothing_is_looked_up_before_the_first_use_and_bytes_outlive_the_cookie() {
    let cache = Cache::new(Memory::new());
    let first = cookie(&cache, 100);
    assert_eq!((first.state(), cache.counts().lookups), (State::Quiescent, 0));
    write(&first.use_cookie().expect("memory"), 0, &[1; 100]);
    assert_eq!(first.state(), State::Active);
    drop(first);
    assert!(cache.cookies().is_empty());
    let again = cookie(&cache, 100).use_cookie().and_then(|cookie| cookie.begin_read_operation());
    assert!(again.expect("memory").is_complete());
    assert_eq!(cache.counts().lookups_found, 1);
}

#[test]
fn p1_an_invalidated_cookie_shows_nothing_of_its_old_content() {
    let cache = Cache::new(Memory::new());
    let cookie = cookie(&cache, 8192);
    let in_use = cookie.use_cookie().expect("memory");
    let before = in_use.begin_read_operation().expect("open");
    before.write(0, &[1; 8192]).expect("fits");
    cookie.invalidate(spec(4096, b"2")).expect("memory");
    assert!(before.expired());
    let old = before.prepare_read(ObjectRange::at(0, 4096), 8192);
    assert_eq!(
        (old.source, old.why, old.flags),
        (IoSource::DownloadFromServer, Why::NoFile, ReadFlags::empty())
    );
    assert!(before.read(0, &mut [0; 4096], OnHole::Fail).is_err());
    assert!(
        matches!(before.write(0, &[1; 4096]), Err(Error::Withdrawn { .. })),
        "late bytes of the old version"
    );
    let after = in_use.begin_read_operation().expect("open");
    assert_eq!(
        (after.size(), after.present_bytes(), cookie.aux()),
        (4096, 0, AuxData::new(b"2").expect("short"))
    );
}

#[test]
fn p1_a_cookie_that_is_invalidated_while_it_is_closed_drops_its_old_content_be_it_of_the_same_version() {
    for version in [&b""[..], b"2"] {
        let cache = Cache::new(Memory::new());
        let cookie = cookie(&cache, 4096);
        write(&cookie.use_cookie().expect("memory"), 0, &[1; 4096]);
        assert!(cookie.discard_idle(Instant::now()));
        assert_eq!(cookie.state(), State::Quiescent);
        cookie.invalidate(spec(4096, version)).expect("memory");
        let again = cookie.use_cookie().and_then(|cookie| cookie.begin_read_operation()).expect("memory");
        assert_eq!(again.present_bytes(), 0);
        drop(again);
        assert!(cookie.discard_idle(Instant::now()), "it is closed again like any other");
    }
}

#[test]
fn a_cookie_that_gets_the_size_it_has_while_it_is_closed_keeps_its_content() {
    let cache = Cache::new(Memory::new());
    let cookie = cookie(&cache, 4096);
    write(&cookie.use_cookie().expect("memory"), 0, &[1; 4096]);
    assert!(cookie.discard_idle(Instant::now()));
    cookie.resize(4096).expect("nothing is open");
    let again = cookie.use_cookie().and_then(|cookie| cookie.begin_read_operation()).expect("memory");
    assert_eq!(again.present_bytes(), 4096);
}

#[test]
fn a_resized_cookie_keeps_what_both_sizes_have() {
    let cache = Cache::new(Memory::new());
    let cookie = cookie(&cache, 8192);
    let in_use = cookie.use_cookie().expect("memory");
    write(&in_use, 0, &[1; 8192]);
    cookie.resize(3 * 4096).expect("memory");
    let after = in_use.begin_read_operation().expect("open");
    assert_eq!((after.size(), after.present_bytes(), cookie.size()), (3 * 4096, 8192, 3 * 4096));
}

#[test]
fn an_idle_cookie_is_closed_and_one_in_use_is_not() {
    let cache = Cache::new(Memory::new());
    let cookie = cookie(&cache, 4096);
    let in_use = cookie.use_cookie().expect("memory");
    let far = Instant::now() + Duration::from_secs(3600);
    assert_eq!(cache.discard_idle(far), 0);
    let clone = in_use.clone();
    drop(in_use);
    assert_eq!(cache.discard_idle(far), 0, "a clone is a use");
    drop(clone);
    assert_eq!(cache.discard_idle(far), 1);
    assert_eq!(cache.discard_idle(far), 0, "there is nothing left to close");
    assert_eq!(cookie.state(), State::Quiescent);
    cache.backend().remove(cookie.volume().key(), cookie.key()).expect("nobody has the object");
}

#[test]
fn a_cookie_in_use_cannot_be_given_back_and_one_given_back_cannot_be_used() {
    let cache = Cache::new(Memory::new());
    let old = cookie(&cache, 4096);
    let in_use = old.use_cookie().expect("memory");
    write(&in_use, 0, &[1; 4096]);
    assert!(matches!(old.relinquish(true), Err(Error::Busy { .. })));
    assert!(!old.wait_unused(Instant::now()));
    drop(in_use);
    assert!(old.wait_unused(Instant::now()));
    old.relinquish(true).expect("idle");
    assert!(matches!(old.relinquish(true), Err(Error::Relinquished { .. })));
    assert!(matches!(old.use_cookie().map(|_| ()), Err(Error::Relinquished { .. })));
    let new = cookie(&cache, 4096);
    assert!(!Arc::ptr_eq(&old, &new), "the key has a living cookie");
    let fresh = new.use_cookie().and_then(|cookie| cookie.begin_read_operation()).expect("memory");
    assert_eq!(fresh.present_bytes(), 0, "the bytes were removed");
    assert_eq!((cache.counts().relinquishes, cache.counts().retires), (1, 1));
}

#[test]
fn a_withdrawn_cache_is_empty_to_its_users_and_opens_nothing() {
    let cache = Cache::new(Memory::new());
    let cookie = cookie(&cache, 4096);
    let in_use = cookie.use_cookie().expect("memory");
    let operation = in_use.begin_read_operation().expect("open");
    operation.write(0, &[1; 4096]).expect("fits");
    cache.withdraw();
    assert!(operation.expired());
    assert_eq!(operation.prepare_read(ObjectRange::at(0, 1), 4096).why, Why::NoFile);
    assert!(matches!(in_use.begin_read_operation().map(|_| ()), Err(Error::Withdrawn { .. })));
    assert!(matches!(cookie.use_cookie().map(|_| ()), Err(Error::Withdrawn { .. })));
    assert_eq!(cache.counts().withdrawals, 1);
}

#[test]
fn accesses_are_counted_and_a_use_outlives_its_first_holder() {
    let cache = Cache::new(Memory::new());
    let cookie = cookie(&cache, 4096);
    let operation = cookie.use_cookie().and_then(|cookie| cookie.begin_read_operation()).expect("memory");
    let clone = operation.clone();
    assert_eq!(cookie.accesses(), 2);
    drop((operation, clone));
    assert_eq!(cookie.accesses(), 0);
    assert!(cookie.wait_unused(Instant::now()));
}

/// A memory backend whose look-ups wait for a word, and fail as often as they are told to.
struct Slow {
    memory: Memory,
    gate: Barrier,
    failures: AtomicI32,
}

impl Backend for Slow {
    fn acquire(
        &self,
        volume: &VolumeKey,
        cookie: &CookieKey,
        spec: &ObjectSpec,
    ) -> Result<Arc<dyn CacheObject>, Error> {
        self.gate.wait();
        if self.failures.fetch_sub(1, Ordering::Relaxed) > 0 {
            let source = rustix::io::Errno::IO.into();
            return Err(Error::Io { cookie: cookie.clone(), doing: "looking it up", source });
        }
        self.memory.acquire(volume, cookie, spec)
    }

    fn relinquish(&self, volume: &VolumeKey, cookie: &CookieKey) -> Result<(), Error> {
        self.memory.relinquish(volume, cookie)
    }

    fn remove(&self, volume: &VolumeKey, cookie: &CookieKey) -> Result<(), Error> {
        self.memory.remove(volume, cookie)
    }
}

#[test]
fn many_users_of_a_closed_cookie_look_it_up_once_and_all_get_it() {
    let slow = Slow { memory: Memory::new(), gate: Barrier::new(2), failures: AtomicI32::new(0) };
    let cache = Cache::new(slow);
    let cookie = cookie(&cache, 4096);
    thread::scope(|scope| {
        let users: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| cookie.use_cookie().and_then(|cookie| cookie.begin_read_operation())))
            .collect();
        cache.backend().gate.wait();
        for user in users {
            user.join().expect("no panic").expect("memory");
        }
    });
    assert_eq!(cache.counts().lookups, 1);
}

#[test]
fn p3_a_failed_look_up_is_an_error_to_who_asked_and_the_next_use_tries_again() {
    let slow = Slow { memory: Memory::new(), gate: Barrier::new(1), failures: AtomicI32::new(1) };
    let cache = Cache::new(slow);
    let cookie = cookie(&cache, 4096);
    assert!(matches!(cookie.use_cookie().map(|_| ()), Err(Error::Io { .. })));
    assert_eq!(cookie.state(), State::Failed);
    assert!(cookie.wait_unused(Instant::now()), "a failed use is none");
    cookie.use_cookie().expect("the fault is over");
    assert_eq!((cache.counts().lookups, cache.counts().lookups_failed), (2, 1));
}

#[test]
fn p1_readers_of_what_is_invalidated_and_filled_again_see_one_version_at_a_time() {
    let cache = Cache::new(Memory::new());
    let cookie = cookie(&cache, 64 << 10);
    let in_use = cookie.use_cookie().expect("memory");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut buf = vec![0; 64 << 10];
                while !stop.load(Ordering::Relaxed) {
                    let operation = in_use.begin_read_operation().expect("open");
                    if operation.read(0, &mut buf, OnHole::Fail).is_ok() {
                        assert!(
                            buf.iter().all(|byte| *byte == buf[0] && *byte != 0),
                            "two versions in one read"
                        );
                    }
                }
            });
        }
        for version in 1..=200_u8 {
            cookie.invalidate(spec(64 << 10, &[version])).expect("memory");
            let operation = in_use.begin_write_operation().expect("open");
            for at in (0..64 << 10).step_by(4096) {
                operation.write(at, &[version; 4096]).expect("fits");
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}
