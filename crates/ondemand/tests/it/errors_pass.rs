//! P1 and P3: a read gets the image's bytes or an error, and no error outlives its cause.

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use futures_util::future::join_all;
use larder_ondemand::{Cause, EngineConfig, FillError};
use larder_testkit::{Troubled, Troubles};

use crate::common::{
    self, DEMAND, Fixture, KIB, Link, MIB, at, bytes, engine, engine_with, even, no_readahead,
};

const ENOSPC: i32 = 28;

#[tokio::test(start_paused = true)]
async fn p3_an_error_reaches_every_waiter_and_the_next_read_tries_again() {
    let fixture = Fixture::new(MIB, 64 * KIB, &Link::usual());
    let engine = engine_with(no_readahead());
    fixture.source.failures.store(1, SeqCst);
    let results = join_all((0..64).map(|_| fixture.read(&engine, 0..64 * KIB))).await;
    assert!(results.iter().all(|result| matches!(result, Err(FillError::Fetch { .. }))));
    let last = fixture.blob.last_error().expect("it is kept for status");
    assert!(last.message.contains("503"), "{}", last.message);
    assert_eq!(results[0].as_ref().expect_err("failed").errno(), 5);
    assert_eq!(fixture.present_bytes(), 0);

    fixture.read(&engine, 0..64 * KIB).await.expect("the source is well again");
    assert_eq!(fixture.blob.stats().requests, 2);
    assert_eq!(fixture.blob.stats().failed_faults, 64);
}

#[tokio::test(start_paused = true)]
async fn p1_a_flipped_bit_is_an_error_the_cache_keeps_nothing_of_it_and_an_honest_source_heals_it() {
    let fixture = Fixture::new(MIB, 64 * KIB, &Link::usual());
    let engine = engine_with(no_readahead());
    fixture.source.flipped_byte.store(100 * KIB, SeqCst);
    fixture.source.flips.store(2, SeqCst);
    let error = fixture.read(&engine, 0..192 * KIB).await.expect_err("twice the wrong bytes");
    assert!(matches!(error, FillError::Content { chunk: 1, .. }), "{error:?}");
    assert_eq!(error.errno(), 5);
    assert_eq!(fixture.present_bytes(), 128 * KIB, "its neighbours are good");
    assert_eq!(fixture.blob.stats().mismatches, 2);
    fixture.assert_present(0..64 * KIB);
    fixture.assert_present(128 * KIB..192 * KIB);

    fixture.read(&engine, 0..192 * KIB).await.expect("the source is honest again");
}

#[tokio::test(start_paused = true)]
async fn a_bit_flipped_once_is_fetched_again_and_no_reader_sees_it() {
    let fixture = Fixture::new(MIB, 64 * KIB, &Link::usual());
    let engine = engine_with(no_readahead());
    fixture.source.flips.store(1, SeqCst);
    fixture.read(&engine, 0..192 * KIB).await.expect("the second try is good");
    assert_eq!(fixture.blob.stats().mismatches, 1);
    assert_eq!(fixture.source.coverage(64 * KIB..192 * KIB), (1, 1), "only the bad chunk is fetched again");
}

#[tokio::test(start_paused = true)]
async fn p3_no_reader_is_held_past_the_deadline_and_the_fetch_is_given_up_too() {
    let fixture = Fixture::new(MIB, 64 * KIB, &Link::usual());
    let engine = engine_with(EngineConfig { deadline: Duration::from_secs(3), ..no_readahead() });
    fixture.source.open.send_replace(false);
    let began = tokio::time::Instant::now();
    let error = fixture.read(&engine, 0..64 * KIB).await.expect_err("nothing comes");
    assert_eq!(began.elapsed().as_secs(), 3);
    assert_eq!(error.errno(), 5);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(fixture.blob.flights_in_hand(), 0, "the next read does not join a dead flight");
    fixture.source.open.send_replace(true);
    fixture.read(&engine, 0..64 * KIB).await.expect("the source is back");
}

#[tokio::test(start_paused = true)]
async fn a_full_cache_is_enospc_and_passes() {
    let troubles = Arc::<Troubles>::default();
    troubles.is_full.store(true, SeqCst);
    let backend = Troubled::new(Arc::clone(&troubles));
    let fixture = Fixture::on(backend, bytes(MIB, 1), even(MIB, 64 * KIB), &Link::usual());
    let engine = engine();
    let error = fixture.read(&engine, 0..64 * KIB).await.expect_err("the cache is full");
    assert_eq!(error.errno(), ENOSPC);
    assert!(error.hint().is_some());
    assert!(error.chain().contains("no space"), "{}", error.chain());
    troubles.is_full.store(false, SeqCst);
    fixture.read(&engine, 0..64 * KIB).await.expect("there is room again");
}

#[tokio::test(start_paused = true)]
async fn readahead_that_fails_does_not_fail_the_reader_who_joined_it() {
    let fixture = Fixture::new(MIB, 64 * KIB, &Link::usual());
    let engine = engine_with(no_readahead());
    fixture.source.failures.store(1, SeqCst);
    let ahead = engine.fill(&fixture.blob, at(0, 256 * KIB), Cause::Readahead);
    let reader = async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        fixture.read(&engine, 64 * KIB..128 * KIB).await
    };
    let (ahead, read) = tokio::join!(ahead, reader);
    ahead.expect_err("the source failed it");
    read.expect("the reader had the chunk fetched for itself");
    assert_eq!(fixture.present_bytes(), 64 * KIB);
}

#[tokio::test(start_paused = true)]
async fn p1_whatever_the_source_does_a_reader_gets_the_right_bytes_or_an_error() {
    for seed in 0..12 {
        let mut random = fastrand::Rng::with_seed(seed);
        let fixture = Fixture::new(4 * MIB - 5, 48 * KIB, &Link::usual());
        // What is brought around a read would leave nothing to go wrong.
        let engine = engine_with(EngineConfig { around_bytes: 0, ..EngineConfig::default() });
        let size = fixture.blob.size();
        let (mut good, mut bad) = (0, 0);
        for _ in 0..40 {
            fixture.source.failures.store(u32::from(random.bool()), SeqCst);
            fixture.source.flips.store(random.u32(0..3), SeqCst);
            fixture.source.flipped_byte.store(random.u64(0..size), SeqCst);
            let readers = (0..random.usize(1..6)).map(|_| {
                let start = random.u64(0..size);
                let end = (start + random.u64(1..300 * KIB)).min(size);
                // The fixture's read checks every byte that it gets.
                fixture.read(&engine, start..end)
            });
            for result in join_all(readers.collect::<Vec<_>>()).await {
                if result.is_ok() { good += 1 } else { bad += 1 }
            }
        }
        assert!(good > 0 && bad > 0, "seed {seed}: {good} good, {bad} bad");
        fixture.source.failures.store(0, SeqCst);
        fixture.source.flips.store(0, SeqCst);
        common::idle().await;
        fixture.read(&engine, 0..size).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert!(fixture.blob.is_complete());
    }
}

#[tokio::test(start_paused = true)]
async fn what_lies_beyond_the_object_is_not_wanted() {
    let fixture = Fixture::new(MIB, 64 * KIB, &Link::usual());
    let engine = engine();
    engine.fill(&fixture.blob, at(MIB, 4096), DEMAND).await.expect("nothing to do");
    engine.fill(&fixture.blob, at(u64::MAX - 1, 4096), DEMAND).await.expect("nothing to do");
    engine.fill(&fixture.blob, at(5, 0), DEMAND).await.expect("nothing to do");
    assert_eq!(fixture.blob.stats().requests, 0);
    engine.fill(&fixture.blob, at(MIB - 1, u64::MAX), DEMAND).await.expect("its last byte");
    fixture.assert_present(MIB - 1..MIB);
}
