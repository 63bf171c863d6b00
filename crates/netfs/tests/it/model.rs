//! Reads of a file on a far side that is short, slow, fails and changes, against the bytes themselves.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use larder_netfs::{Cached, Error, File, Limits, Netfs};
use proptest::prelude::*;
use tokio::runtime::Builder;

use crate::common::{self, cached, noise};
use crate::far::{Far, Turn};

fn limits() -> Limits {
    Limits {
        download_bytes_max: 128 << 10,
        window_bytes: (64 << 10, 512 << 10),
        memory_bytes_max: 1 << 20,
        ..Limits::default()
    }
}

async fn read(file: &Arc<File>, at: u64, len: usize) -> Result<Vec<u8>, Error> {
    let mut buf = Vec::new();
    match file.read_now(at, len, &mut buf) {
        Some(pieces) if pieces.is_empty() => Ok(buf),
        Some(pieces) => Ok(pieces.concat()),
        None => Ok(file.read(at, len).await?.concat()),
    }
}

fn slice(bytes: &[u8], at: u64, len: usize) -> &[u8] {
    let start = usize::try_from(at).unwrap().min(bytes.len());
    &bytes[start..(start + len).min(bytes.len())]
}

fn run<T>(test: impl Future<Output = T>) -> T {
    Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(test)
}

fn netfs() -> Arc<Netfs> {
    Netfs::new(tokio::runtime::Handle::current(), limits()).unwrap()
}

#[test]
fn a_file_is_read_whole_and_once_and_then_from_the_cache() {
    run(async {
        let bytes = noise(3_000_001, 1);
        let far = Far::new(bytes.clone(), []);
        // Memory for all of it: how far the reader is ahead of the copies to the cache must not decide what is asked for.
        let limits = Limits { memory_bytes_max: 4 << 20, ..limits() };
        let netfs = Netfs::new(tokio::runtime::Handle::current(), limits).unwrap();
        let (cached, _) = cached(bytes.len() as u64);
        let file = netfs.open(far.clone(), &far.version(), cached);
        for _ in 0..2 {
            let mut got = Vec::new();
            while got.len() < bytes.len() {
                got.extend(read(&file, got.len() as u64, 131_072).await.unwrap());
            }
            assert!(got == bytes);
            netfs.flush();
        }
        assert_eq!(far.served.load(Ordering::Relaxed), bytes.len() as u64, "each byte once");
        assert!(file.cached().resources().unwrap().is_complete());
        let counts = netfs.stats().counts();
        assert_eq!(counts.download_bytes, bytes.len() as u64);
        assert!(counts.readahead > 2 && counts.cache_write_failures == 0, "{counts:?}");
    });
}

#[test]
fn p2_many_readers_of_one_hole_make_one_download() {
    run(async {
        let bytes = noise(200_000, 2);
        let far = Far::new(bytes.clone(), [Turn::Slow(500)]);
        let (netfs, (cached, _)) = (netfs(), cached(bytes.len() as u64));
        let file = netfs.open(far.clone(), &far.version(), cached);
        let readers: Vec<_> = (0..20)
            .map(|n| {
                let file = Arc::clone(&file);
                tokio::spawn(async move { (n, read(&file, n * 1000, 1000).await) })
            })
            .collect();
        for reader in readers {
            let (n, got) = reader.await.unwrap();
            assert_eq!(got.unwrap(), slice(&bytes, n * 1000, 1000));
        }
        assert_eq!(far.served.load(Ordering::Relaxed), 200_000, "each byte once");
    });
}

#[test]
fn a_part_is_unlocked_before_the_whole_request_is_done() {
    run(async {
        let bytes = noise(300_000, 3);
        // The first slice comes at once, the others take an hour.
        let far = Far::new(bytes.clone(), [Turn::All(1000), Turn::Slow(3_600_000), Turn::Slow(3_600_000)]);
        let limits = Limits { window_bytes: (1 << 20, 1 << 20), ..limits() };
        let netfs = Netfs::new(tokio::runtime::Handle::current(), limits).unwrap();
        let file = netfs.open(far.clone(), &far.version(), Cached::none());
        let begun = tokio::time::Instant::now();
        assert_eq!(read(&file, 0, 100_000).await.unwrap(), slice(&bytes, 0, 100_000));
        assert!(begun.elapsed().as_secs() < 3600, "it did not wait for the rest");
        assert_eq!(read(&file, 0, 300_000).await.unwrap(), bytes);
    });
}

#[test]
fn an_error_fails_only_the_part_that_it_covers_and_not_the_next_read() {
    run(async {
        let bytes = noise(300_000, 4);
        let far = Far::new(bytes.clone(), [Turn::All(999), Turn::Fail(10_000), Turn::All(999)]);
        let limits = Limits { window_bytes: (1 << 20, 1 << 20), ..limits() };
        let netfs = Netfs::new(tokio::runtime::Handle::current(), limits).unwrap();
        let (cached, _) = cached(bytes.len() as u64);
        let file = netfs.open(far.clone(), &far.version(), cached);
        let (first, failed, good) =
            tokio::join!(read(&file, 0, 131_072), read(&file, 150_000, 1000), read(&file, 262_144, 1000));
        assert_eq!(first.unwrap(), slice(&bytes, 0, 131_072));
        assert!(matches!(failed, Err(Error::Download { .. })), "{failed:?}");
        assert_eq!(good.unwrap(), slice(&bytes, 262_144, 1000));
        assert_eq!(read(&file, 150_000, 1000).await.unwrap(), slice(&bytes, 150_000, 1000), "P3");
    });
}

#[test]
fn p3_what_failed_is_tried_again_while_the_rest_of_its_request_is_still_on_its_way() {
    run(async {
        let bytes = noise(300_000, 7);
        let far = Far::new(bytes.clone(), [Turn::All(999), Turn::Fail(0), Turn::Slow(3_600_000)]);
        let limits = Limits { window_bytes: (1 << 20, 1 << 20), ..limits() };
        let netfs = Netfs::new(tokio::runtime::Handle::current(), limits).unwrap();
        let file = netfs.open(far.clone(), &far.version(), Cached::none());
        let begun = tokio::time::Instant::now();
        assert_eq!(read(&file, 0, 131_072).await.unwrap(), slice(&bytes, 0, 131_072));
        assert_eq!(read(&file, 150_000, 1000).await.unwrap(), slice(&bytes, 150_000, 1000));
        assert!(begun.elapsed().as_secs() < 3600, "it did not wait for the rest");
    });
}

#[test]
fn nothing_twice_in_a_row_is_an_error() {
    run(async {
        let far =
            Far::new(noise(10_000, 5), [Turn::Short(0), Turn::Short(1), Turn::Short(0), Turn::Short(0)]);
        let file = netfs().open(far.clone(), &far.version(), Cached::none());
        let got = read(&file, 0, 10_000).await;
        assert!(matches!(&got, Err(error @ Error::NoProgress { .. }) if error.errno() == 61), "{got:?}");
        assert_eq!(far.calls.load(Ordering::Relaxed), 4);
    });
}

#[test]
fn p1_a_changed_file_gives_what_is_cached_and_else_an_error_never_a_mixture() {
    run(async {
        let bytes = noise(1_000_000, 6);
        let far = Far::new(bytes.clone(), []);
        let (netfs, (cached, _)) = (netfs(), cached(bytes.len() as u64));
        let file = netfs.open(far.clone(), &far.version(), cached);
        read(&file, 0, 4096).await.unwrap();
        tokio::task::yield_now().await;
        far.changed.store(true, Ordering::Relaxed);
        netfs.flush();
        assert_eq!(read(&file, 0, 4096).await.unwrap(), slice(&bytes, 0, 4096), "the old bytes are here");
        let got = read(&file, 900_000, 4096).await;
        assert!(matches!(&got, Err(error) if error.errno() == 116), "ESTALE, not {got:?}");
        assert!(netfs.stats().counts().stale >= 1);
    });
}

#[test]
fn a_full_or_failing_cache_never_fails_a_reader() {
    run(async {
        let bytes = noise(500_000, 7);
        let far = Far::new(bytes.clone(), []);
        let (netfs, (cached, troubles)) = (netfs(), cached(bytes.len() as u64));
        let file = netfs.open(far.clone(), &far.version(), cached);
        troubles.is_full.store(true, Ordering::Relaxed);
        assert_eq!(read(&file, 0, 250_000).await.unwrap(), slice(&bytes, 0, 250_000));
        netfs.flush();
        assert_eq!(file.cached().resources().unwrap().present_bytes(), 0);
        assert!(netfs.stats().counts().cache_write_failures >= 1);
        troubles.is_full.store(false, Ordering::Relaxed);

        let file = netfs.open(far.clone(), &far.version(), common::cached(bytes.len() as u64).0);
        read(&file, 0, 500_000).await.unwrap();
        let (cached, troubles) = common::cached(bytes.len() as u64);
        cached.resources().unwrap().write(0, &bytes).unwrap();
        troubles.cannot_read.store(true, Ordering::Relaxed);
        let file = netfs.open(far.clone(), &far.version(), cached);
        assert_eq!(read(&file, 0, 500_000).await.unwrap(), bytes, "downloaded instead");
        assert!(netfs.stats().counts().download_instead >= 1);
    });
}

#[test]
fn a_write_that_takes_long_does_not_keep_others_from_reading_ahead() {
    run(async {
        const MIB: usize = 1 << 20;
        let bytes = noise(64 * MIB, 9);
        let far = Far::new(bytes.clone(), []);
        let limits = Limits { window_bytes: (MIB as u64, MIB as u64), memory_bytes_max: 8 << 20, ..limits() };
        let limits = Limits { copy_bytes_max: 64 << 20, ..limits };
        let netfs = Netfs::new(tokio::runtime::Handle::current(), limits).unwrap();
        let (cached, troubles) = cached(bytes.len() as u64);
        let file = netfs.open(far.clone(), &far.version(), cached);
        troubles.is_stuck.store(true, Ordering::Relaxed);
        let pass = async |mib: std::ops::Range<usize>| {
            let before = netfs.stats().counts();
            for at in mib.flat_map(|mib| (0..4).map(move |part| mib * MIB + part * MIB / 4)) {
                let got = read(&file, at as u64, MIB / 4).await.unwrap();
                assert!(got == bytes[at..at + MIB / 4]);
                tokio::task::yield_now().await;
            }
            netfs.stats().counts().readahead - before.readahead
        };
        pass(0..16).await;
        assert!(pass(16..24).await < 2, "all memory waits for the cache");
        std::thread::sleep(std::time::Duration::from_millis(1100));
        // The first reads find that it takes long, the next ones have the memory.
        pass(24..28).await;
        assert!(pass(28..40).await > 8, "read ahead again");
        troubles.is_stuck.store(false, Ordering::Relaxed);
        netfs.flush();
        let before = netfs.stats().counts();
        pass(40..48).await;
        netfs.flush();
        let after = netfs.stats().counts();
        assert!(after.cache_write_successes > before.cache_write_successes, "and cached again");
        assert_eq!(after.cache_writes_skipped, before.cache_writes_skipped);
    });
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        4 => (1usize..200_000).prop_map(Turn::All),
        2 => (0u64..100_000).prop_map(Turn::Short),
        2 => (0u64..100_000).prop_map(Turn::Fail),
        1 => (0u64..100_000).prop_map(Turn::Change),
        2 => (0u64..1000).prop_map(Turn::Slow),
        1 => Just(Turn::TooMuch),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Readers side by side on one file: each gets the file's bytes or an error, and an error only where the far side
    /// gave a reason. What ends in the cache is the file's, too.
    #[test]
    fn p1_every_read_gives_the_bytes_of_the_version_or_an_error(
        size in 1usize..900_000,
        turns in proptest::collection::vec(turn(), 0..40),
        reads in proptest::collection::vec((any::<u64>(), 1usize..300_000, any::<bool>()), 1..30),
        present in proptest::collection::vec(any::<bool>(), 0..250),
        with_cache in any::<bool>(),
        troubles in (any::<bool>(), any::<bool>()),
    ) {
        run(async {
            let bytes = noise(size, 8);
            let is_harmless = |turn: &Turn| matches!(turn, Turn::All(_) | Turn::Slow(_) | Turn::TooMuch);
            let harmless = turns.iter().all(is_harmless);
            let far = Far::new(bytes.clone(), turns);
            let netfs = netfs();
            let (cached, told) = cached(size as u64);
            for (block, _) in present.iter().enumerate().filter(|(_, present)| **present) {
                let part = slice(&bytes, block as u64 * 4096, 4096);
                cached.resources().unwrap().write((block as u64 * 4096).min(size as u64), part).unwrap();
            }
            told.is_full.store(troubles.0, Ordering::Relaxed);
            told.cannot_read.store(troubles.1, Ordering::Relaxed);
            let kept = cached.resources().unwrap().clone();
            let file = netfs.open(far.clone(), &far.version(), if with_cache { cached } else { Cached::none() });
            let mut beside = Vec::new();
            for (at, len, waits) in reads {
                let at = at % (size as u64 + 1);
                let (file, expected) = (Arc::clone(&file), slice(&bytes, at, len).to_vec());
                let one = tokio::spawn(async move {
                    match read(&file, at, len).await {
                        Ok(got) => assert!(got == expected, "wrong bytes at {at}, {len}"),
                        Err(error) => assert!(!harmless, "{error}"),
                    }
                });
                if waits { one.await.unwrap() } else { beside.push(one) }
            }
            for one in beside {
                one.await.unwrap();
            }
            netfs.flush();
            told.cannot_read.store(false, Ordering::Relaxed);
            for block in 0..(size as u64).div_ceil(4096) {
                let expected = slice(&bytes, block * 4096, 4096);
                let mut got = vec![0; expected.len()];
                if kept.read(block * 4096, &mut got, larder_fscache::OnHole::Fail).is_ok() {
                    assert!(got == expected, "block {block} of the cache is wrong");
                }
            }
        });
    }
}
