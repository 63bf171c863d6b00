//! Readers of what is being taken away.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use larder_cachefiles::{BootId, Cachefiles, Config, NoHolder};
use larder_fscache::{AuxData, Cache, CookieKey, Error, ObjectRange, ObjectSpec, OnHole, VolumeKey};

const SIZE: u64 = 64 << 10;
const ROUNDS: u64 = 300;

#[test]
fn p1_readers_of_what_is_culled_punched_or_invalidated_get_the_bytes_or_a_hole_and_never_zeros() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = Config::new(dir.path().join("cache"), BootId::from_bytes([1; 16]), Arc::new(NoHolder));
    let cache = Cache::new(Cachefiles::open(config).expect("fit"));
    let (volume_key, key) = (VolumeKey::new("v").expect("valid"), CookieKey::new("c").expect("valid"));
    let volume = cache.acquire_volume(&volume_key, &AuxData::default()).expect("space");
    let spec = ObjectSpec::of_size(SIZE);
    let (taken, holes, read) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for reader in 0..3u64 {
            let (volume, key, spec, cache) = (&volume, &key, &spec, &cache);
            let (taken, holes, read) = (&taken, &holes, &read);
            scope.spawn(move || {
                let mut buf = vec![0; 24 << 10];
                while taken.load(Ordering::Acquire) < ROUNDS {
                    let cookie = volume.acquire_cookie(key, spec).expect("the same");
                    let in_use = match cookie.use_cookie() {
                        Ok(in_use) => in_use,
                        Err(Error::Relinquished { .. }) => continue,
                        Err(error) => panic!("{error}"),
                    };
                    let operation = match in_use.begin_read_operation() {
                        Ok(operation) => operation,
                        Err(Error::Relinquished { .. } | Error::Withdrawn { .. }) => continue,
                        Err(error) => panic!("{error}"),
                    };
                    for at in [0, 8192, 4096 * (3 + reader)] {
                        match operation.read(at, &mut buf, OnHole::Fail) {
                            Ok(len) => {
                                assert!(buf[..len].iter().all(|byte| *byte == 7), "zeros at {at}");
                                read.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(Error::Hole { .. }) => {
                                holes.fetch_add(1, Ordering::Relaxed);
                                match operation.write(0, &vec![7; 64 << 10]) {
                                    Ok(()) | Err(Error::Withdrawn { .. }) => {}
                                    Err(error) => panic!("{error}"),
                                }
                                let _ = operation.object().commit();
                            }
                            Err(error) => assert!(operation.expired(), "{error}"),
                        }
                    }
                    drop((operation, in_use));
                    // What nobody uses is closed, and can be culled.
                    cache.discard_idle(std::time::Instant::now());
                }
            });
        }
        let backend = cache.backend();
        let mut round = 0u64;
        while taken.load(Ordering::Acquire) < ROUNDS {
            round += 1;
            let did = match round % 3 {
                0 => backend.cull(1, 0).bytes > 0,
                1 => matches!(
                    backend.invalidate_range(&volume_key, &key, ObjectRange::at(8192, 12288)),
                    Ok(1..)
                ),
                _ => volume
                    .acquire_cookie(&key, &spec)
                    .is_ok_and(|cookie| cookie.invalidate(spec.clone()).is_ok()),
            };
            taken.fetch_add(u64::from(did), Ordering::AcqRel);
        }
    });
    let (holes, read) = (holes.into_inner(), read.into_inner());
    assert!(holes > 0 && read > 0, "{holes} holes, {read} reads: both must happen");
}
