//! A cache with a quota under ten times as much work, from many threads.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::thread;

use larder_cachefiles::{BootId, Cachefiles, Config, Limits, NoHolder};
use larder_fscache::{Backend, CacheObject, CookieKey, Error, ObjectSpec, Run, VolumeKey};

const QUOTA: u64 = 8 << 20;
const THREADS: u64 = 8;
const OBJECTS: u64 = 40;
const PIECE: usize = 64 << 10;
const PIECES: u64 = 4;

/// Bytes that all files take which are objects, are to be, or were.
fn taken(root: &Path) -> u64 {
    fn sum(dir: &Path) -> u64 {
        let entries = fs::read_dir(dir).expect("readable").map(|entry| entry.expect("readable"));
        entries
            .map(|entry| {
                let found = entry.metadata().expect("nobody is at work");
                if found.is_dir() { sum(&entry.path()) } else { found.blocks() * 512 }
            })
            .sum()
    }
    ["cache", "tmp", "graveyard"].iter().map(|folder| sum(&root.join(folder))).sum()
}

fn byte(thread: u64, n: u64) -> u8 {
    u8::try_from(1 + (thread * OBJECTS + n) % 251).expect("small")
}

/// Whatever is present has the bytes that were written.
fn check(object: &dyn CacheObject, byte: u8) {
    let mut at = 0;
    while at < object.size() {
        at = match object.probe(at) {
            Run::Hole { until } => until,
            Run::Present { until } => {
                let mut found = vec![0; usize::try_from(until - at).expect("small")];
                assert_eq!(object.read_at(at, &mut found).expect("readable"), found.len());
                assert!(found.iter().all(|b| *b == byte), "at {at}");
                until
            }
        };
    }
}

#[test]
fn p5_eight_threads_that_fill_ten_times_the_quota_never_pass_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().join("cache");
    let config = Config {
        limits: Limits { quota: Some(QUOTA), ..Limits::default() },
        ..Config::new(root.clone(), BootId::from_bytes([1; 16]), Arc::new(NoHolder))
    };
    let cache = Cachefiles::open(config).expect("fit");
    let volume = VolumeKey::new("v").expect("valid");
    // Whoever measures holds it alone: a sum over files that come and go meanwhile is no sum.
    let (at_work, done) = (RwLock::new(()), AtomicBool::new(false));
    let work = |thread: u64, n: u64| -> Result<(), Error> {
        let key = CookieKey::new(&format!("{thread}-{n}")).expect("valid");
        let spec = ObjectSpec::of_size(PIECE as u64 * PIECES);
        let object = {
            let _working = at_work.read().expect("no panic");
            cache.acquire(&volume, &key, &spec)?
        };
        for piece in 0..PIECES {
            let _working = at_work.read().expect("no panic");
            object.write(piece * PIECE as u64, &vec![byte(thread, n); PIECE])?;
            if piece % 2 == 1 {
                object.commit()?;
            }
        }
        check(&*object, byte(thread, n));
        drop(object);
        cache.relinquish(&volume, &key)
    };
    let (samples, highest) = thread::scope(|scope| {
        let measuring = scope.spawn(|| {
            let (mut samples, mut highest) = (0, 0);
            while !done.load(Ordering::Acquire) {
                let _nobody_works = at_work.write().expect("no panic");
                let taken = taken(&root);
                assert!(taken <= QUOTA, "{taken} bytes are taken, the quota is {QUOTA}");
                assert!(taken <= cache.usage().charged_bytes, "the charge is an upper bound");
                (samples, highest) = (samples + 1, taken.max(highest));
            }
            (samples, highest)
        });
        let workers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let work = &work;
                scope.spawn(move || {
                    for n in 0..OBJECTS {
                        work(thread, n).expect("what is idle makes room");
                    }
                })
            })
            .collect();
        workers.into_iter().for_each(|worker| worker.join().expect("no panic"));
        done.store(true, Ordering::Release);
        measuring.join().expect("no panic")
    });
    assert!(samples > 10, "{samples} samples");
    assert!(highest > QUOTA / 2, "the quota was put to use: {highest}");
    for (thread, n) in (0..THREADS).flat_map(|thread| (0..OBJECTS).map(move |n| (thread, n))) {
        let key = CookieKey::new(&format!("{thread}-{n}")).expect("valid");
        if cache.object_info(&volume, &key).is_some() {
            let object =
                cache.acquire(&volume, &key, &ObjectSpec::of_size(PIECE as u64 * PIECES)).expect("there");
            check(&*object, byte(thread, n));
        }
    }
}
