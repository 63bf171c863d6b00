//! What ends a reader's wait besides its bytes: the reader itself, the withdrawal of its blob, the end of the engine.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use larder_ondemand::{EngineConfig, FillError, table::Limits, table::Refused};
use tokio::time::{Instant, sleep, timeout};

use crate::common::{self, DEMAND, Fixture, KIB, Link, MIB, at, engine_with, no_readahead};

fn hanging(len: u64) -> Fixture {
    let fixture = Fixture::new(len, 64 * KIB, &Link::usual());
    fixture.source.open.send_replace(false);
    fixture
}

fn why(result: Result<(), FillError>) -> Refused {
    match result {
        Err(FillError::Refused { source, .. }) => source,
        other => panic!("refused, not {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_withdrawal_tells_every_reader_at_once_and_refuses_the_next() {
    let (fixture, engine) = (hanging(8 * MIB), engine_with(no_readahead()));
    let began = Instant::now();
    let readers = join_all((0..64).map(|n| fixture.read(&engine, n * 128 * KIB..n * 128 * KIB + 1)));
    let withdrawal = async {
        sleep(Duration::from_millis(5)).await;
        assert_eq!(engine.questions(), 64);
        engine.withdraw(&fixture.blob).await;
    };
    let (results, ()) = tokio::join!(readers, withdrawal);
    for result in results {
        assert_eq!(result.as_ref().map_err(FillError::errno), Err(5));
        assert!(matches!(why(result), Refused::Dropping { .. }));
    }
    assert_eq!(began.elapsed(), Duration::from_millis(5), "nobody waits for a source that hangs");
    assert_eq!((engine.questions(), fixture.blob.flights_in_hand()), (0, 0));
    fixture.source.open.send_replace(true);
    assert!(matches!(why(fixture.read(&engine, 0..1).await), Refused::Dropping { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_withdrawal_ends_readahead_and_prefetch_too_and_leaves_other_blobs_alone() {
    let engine = engine_with(EngineConfig::default());
    let (going, staying) = (hanging(16 * MIB), Fixture::new(MIB, 64 * KIB, &Link::usual()));
    let prefetch = engine.prefetch(&going.blob, at(8 * MIB, 8 * MIB));
    let ahead = engine.fill(&going.blob, at(0, MIB), larder_ondemand::Cause::Readahead);
    let withdrawal = async {
        sleep(Duration::from_millis(5)).await;
        assert!(going.blob.flights_in_hand() > 0);
        engine.withdraw(&going.blob).await;
        assert_eq!(going.blob.flights_in_hand(), 0);
    };
    let (prefetched, read, ()) = tokio::join!(prefetch, ahead, withdrawal);
    prefetched.expect_err("it was given up");
    read.expect_err("it was given up");
    staying.read(&engine, 0..MIB).await.expect("it has nothing to do with it");
}

#[tokio::test(start_paused = true)]
async fn flood_at_shutdown_ends_every_reader_of_every_blob_and_refuses_new_ones() {
    let engine = engine_with(no_readahead());
    let blobs: Vec<Fixture> = (0..8).map(|_| hanging(MIB)).collect();
    let began = Instant::now();
    let readers = join_all(
        blobs.iter().flat_map(|fixture| (0..200).map(|n| fixture.read(&engine, n * KIB..n * KIB + 1))),
    );
    let end = async {
        sleep(Duration::from_millis(5)).await;
        engine.shut_down().await;
    };
    let (results, ()) = tokio::join!(readers, end);
    assert_eq!(results.len(), 1600);
    assert!(results.into_iter().all(|result| why(result) == Refused::Dead));
    assert_eq!(began.elapsed(), Duration::from_millis(5));
    assert_eq!(engine.questions(), 0);
    let late = Fixture::new(MIB, 64 * KIB, &Link::usual());
    assert_eq!(why(late.read(&engine, 0..1).await), Refused::Dead);
    assert_eq!(why(blobs[0].read(&engine, 0..1).await), Refused::Dead);
    assert_eq!(late.present_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_goes_away_takes_its_question_with_it_and_the_fetch_goes_on() {
    let fixture = Fixture::new(MIB, 64 * KIB, &Link::usual());
    let engine = engine_with(no_readahead());
    assert!(timeout(Duration::from_millis(5), fixture.read(&engine, 0..64 * KIB)).await.is_err());
    tokio::task::yield_now().await;
    assert_eq!(engine.questions(), 0);
    sleep(Duration::from_millis(50)).await;
    fixture.assert_present(0..64 * KIB);
}

#[tokio::test(start_paused = true)]
async fn a_blob_that_nobody_has_any_more_leaves_the_tables() {
    let engine = engine_with(no_readahead());
    for _ in 0..1000 {
        let fixture = Fixture::new(64 * KIB, 64 * KIB, &Link::usual());
        fixture.read(&engine, 0..1).await.expect("the source is well");
    }
    common::idle().await;
    assert_eq!((engine.questions(), engine.objects()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn more_readers_than_may_wait_are_all_served_and_no_other_blob_waits_for_them() {
    let tables = Limits { reads_per_object_max: 8, in_hand_per_object_max: 2, ..Limits::default() };
    let engine = engine_with(EngineConfig { tables, ..no_readahead() });
    let (crowded, other) =
        (Fixture::new(16 * MIB, 64 * KIB, &Link::usual()), Fixture::new(MIB, 64 * KIB, &Link::usual()));
    let readers = join_all((0..100).map(|n| crowded.read(&engine, n * 64 * KIB..(n + 1) * 64 * KIB)));
    let reader = async {
        sleep(Duration::from_millis(1)).await;
        assert_eq!(engine.questions(), 8, "the bound");
        let began = Instant::now();
        other.read(&engine, 0..1).await.expect("the source is well");
        assert!(began.elapsed() < Duration::from_millis(60), "{:?}", began.elapsed());
    };
    let (results, ()) = tokio::join!(readers, reader);
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(crowded.source.coverage(0..100 * 64 * KIB), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn p3_a_reader_who_finds_no_room_is_not_held_past_the_deadline_either() {
    let tables = Limits { reads_per_object_max: 1, ..Limits::default() };
    let deadline = Duration::from_secs(2);
    let engine = engine_with(EngineConfig { tables, deadline, ..no_readahead() });
    let fixture = hanging(4 * MIB);
    let began = Instant::now();
    let results = join_all((0..3).map(|n| fixture.read(&engine, n * MIB..n * MIB + 1))).await;
    assert_eq!(began.elapsed(), deadline);
    assert!(results.iter().all(|result| matches!(result, Err(FillError::Deadline { .. }))));
    fixture.source.open.send_replace(true);
    fixture.read(&engine, 0..1).await.expect("the next read tries again");
}

#[test]
fn a_withdrawal_under_load_returns_only_when_no_task_has_the_blob_any_more() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let link = Link::new(Duration::from_micros(100), 800_000_000);
    for seed in 0..20 {
        let (fixture, engine) =
            runtime.block_on(async { (Fixture::new(8 * MIB, 16 * KIB, &link), common::engine()) });
        let (done, results) = std::sync::mpsc::channel();
        for n in 0..64 {
            let done = done.clone();
            engine.spawn_fill(&fixture.blob, at(n * 128 * KIB, 128 * KIB), DEMAND, move |result| {
                let _ = done.send(result.map_err(why_not));
            });
        }
        std::thread::sleep(Duration::from_micros(seed * 300));
        runtime.block_on(engine.withdraw(&fixture.blob));
        assert_eq!(Arc::strong_count(&fixture.blob), 1, "a task still has it");
        let present = fixture.present_bytes();
        drop(done);
        let ended: Vec<_> = results.into_iter().collect();
        assert_eq!(ended.len(), 64, "every reader heard");
        assert_eq!(fixture.present_bytes(), present, "written after the withdrawal");
    }
}

fn why_not(error: FillError) -> Refused {
    why(Err(error))
}
