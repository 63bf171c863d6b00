//! P2, second half: no reader waits behind another image, behind readahead or behind prefetch.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use futures_util::future::join_all;
use larder_ondemand::{Cause, EngineConfig};
use tokio::time::{Instant, sleep, timeout};

use crate::common::{DEMAND, Fixture, KIB, Link, MIB, at, engine, engine_with, no_readahead};

#[tokio::test(start_paused = true)]
async fn p2_readers_of_one_blob_are_not_held_up_by_others_whose_source_hangs() {
    let engine = engine();
    let hanging: Vec<Fixture> = (0..8).map(|_| Fixture::new(16 * MIB, 64 * KIB, &Link::usual())).collect();
    let well = Fixture::new(MIB, 64 * KIB, &Link::usual());
    for fixture in &hanging {
        fixture.source.open.send_replace(false);
        for n in 0..32 {
            engine.spawn_fill(&fixture.blob, at(n * 512 * KIB, 512 * KIB), DEMAND, drop);
        }
    }
    sleep(Duration::from_millis(1)).await;
    let began = Instant::now();
    let readers = (0..8).map(|n| well.read(&engine, n * 128 * KIB..(n + 1) * 128 * KIB));
    assert!(join_all(readers).await.iter().all(Result::is_ok));
    assert!(
        began.elapsed() < Duration::from_millis(250),
        "one after the other at worst: {:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_goes_away_does_not_end_the_fetch_for_the_others() {
    let fixture = Fixture::new(MIB, 64 * KIB, &Link::usual());
    let engine = engine_with(no_readahead());
    let impatient = timeout(Duration::from_millis(5), fixture.read(&engine, 0..64 * KIB));
    let patient = async {
        sleep(Duration::from_millis(2)).await;
        fixture.read(&engine, 0..64 * KIB).await
    };
    let (gave_up, got) = tokio::join!(impatient, patient);
    assert!(gave_up.is_err());
    got.expect("the other one is served");
    assert_eq!(fixture.source.requests.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn p2_demand_overtakes_readahead_that_is_only_queued() {
    let config = EngineConfig { readahead_requests_per_blob: 1, ..no_readahead() };
    let fixture = Fixture::new(16 * MIB, 64 * KIB, &Link::usual());
    let engine = engine_with(config);
    let began = Instant::now();
    let ahead = engine.fill(&fixture.blob, at(0, 8 * MIB), Cause::Readahead);
    let reader = async {
        sleep(Duration::from_millis(1)).await;
        fixture.read(&engine, 7 * MIB..7 * MIB + 4 * KIB).await.expect("the source is well");
        began.elapsed()
    };
    let (ahead, waited) = tokio::join!(ahead, reader);
    ahead.expect("what was overtaken was brought by the reader");
    assert!(waited < Duration::from_millis(40), "{waited:?}");
    assert_eq!(fixture.source.coverage(0..8 * MIB), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn demand_joins_readahead_that_is_on_the_wire() {
    let fixture = Fixture::new(16 * MIB, 64 * KIB, &Link::usual());
    let engine = engine_with(no_readahead());
    let ahead = engine.fill(&fixture.blob, at(0, 512 * KIB), Cause::Readahead);
    let reader = async {
        sleep(Duration::from_millis(1)).await;
        fixture.read(&engine, 256 * KIB..260 * KIB).await
    };
    let (ahead, read) = tokio::join!(ahead, reader);
    ahead.expect("the source is well");
    read.expect("the source is well");
    assert_eq!(fixture.source.requests.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn prefetch_stands_back_while_a_reader_waits() {
    let engine = engine_with(no_readahead());
    let slow = Fixture::new(MIB, 64 * KIB, &Link::usual());
    let fixture = Fixture::new(MIB, 64 * KIB, &Link::usual());
    slow.source.open.send_replace(false);
    engine.spawn_fill(&slow.blob, at(0, 1), DEMAND, drop);
    sleep(Duration::from_millis(1)).await;
    assert_eq!(engine.readers_waiting(), 1);
    let prefetch = engine.prefetch(&fixture.blob, at(0, MIB));
    tokio::pin!(prefetch);
    assert!(timeout(Duration::from_secs(1), &mut prefetch).await.is_err());
    assert_eq!(fixture.present_bytes(), 0);
    slow.source.open.send_replace(true);
    prefetch.await.expect("the reader has been served");
    assert!(fixture.blob.is_complete());
}
