//! Who goes first: readers, then what is read ahead, then profiles, then prefetch; and images take turns.

use std::time::Duration;

use futures_util::future::join_all;
use larder_ondemand::{Cause, Engine, EngineConfig};
use tokio::time::{Instant, sleep};

use crate::common::{self, Fixture, KIB, Link, MIB, at, engine_with, no_readahead};

fn order(engine: &Engine) -> Vec<&'static str> {
    let mut order: Vec<_> = engine.fills().iter().map(|fill| fill.cause.as_str()).collect();
    order.dedup();
    order
}

#[tokio::test(start_paused = true)]
async fn p2_one_image_with_a_thousand_waiting_chunks_does_not_hold_up_another_ones_single_reader() {
    let link = Link::usual();
    let engine = engine_with(no_readahead());
    let (greedy, modest) = (Fixture::new(64 * MIB, 64 * KIB, &link), Fixture::new(MIB, 64 * KIB, &link));
    let began = Instant::now();
    let all = join_all((0..1000).map(|n| greedy.read(&engine, n * 64 * KIB..(n + 1) * 64 * KIB)));
    let single = async {
        sleep(Duration::from_millis(100)).await;
        modest.read(&engine, 0..64 * KIB).await.expect("the source is well");
        began.elapsed() - Duration::from_millis(100)
    };
    let (all, waited) = tokio::join!(all, single);
    assert!(all.iter().all(Result::is_ok));
    let everything = began.elapsed();
    assert!(everything > Duration::from_secs(2), "{everything:?}");
    // What is on the wire already goes first: 16 requests of the other image at most, and those are on the same link.
    assert!(waited < Duration::from_millis(150), "{waited:?} of {everything:?}");
}

#[tokio::test(start_paused = true)]
async fn a_profile_is_brought_while_readers_wait_and_before_any_prefetch() {
    let link = Link::usual();
    let engine = engine_with(no_readahead());
    let (profiled, prefetched) = (Fixture::new(8 * MIB, 64 * KIB, &link), Fixture::new(MIB, 64 * KIB, &link));
    let hanging = Fixture::new(MIB, 64 * KIB, &link);
    hanging.source.open.send_replace(false);
    engine.spawn_fill(&hanging.blob, at(0, 1), common::DEMAND, drop);
    sleep(Duration::from_millis(1)).await;

    let profile = engine.prefetch_profile(&profiled.blob, [at(4 * MIB, 2 * MIB), at(0, MIB)]);
    let prefetch = async {
        tokio::task::yield_now().await;
        engine.prefetch(&prefetched.blob, at(0, MIB)).await
    };
    let release = async {
        sleep(Duration::from_millis(500)).await;
        profiled.assert_present(4 * MIB..6 * MIB);
        profiled.assert_present(0..MIB);
        assert_eq!(prefetched.present_bytes(), 0, "somebody waits");
        hanging.source.open.send_replace(true);
    };
    let (profile, prefetch, ()) = tokio::join!(profile, prefetch, release);
    profile.expect("the source is well");
    prefetch.expect("the source is well");
    common::idle().await;
    assert_eq!(order(&engine), ["profile", "demand", "prefetch"]);
    let starts: Vec<u64> = engine.fills().iter().map(|fill| fill.range.start() / MIB).collect();
    assert!(starts[0] >= 4, "in the profile's order: {starts:?}");
}

#[tokio::test(start_paused = true)]
async fn prefetch_does_not_slip_in_between_the_pieces_of_a_profile() {
    let link = Link::usual();
    let engine = engine_with(no_readahead());
    let (profiled, prefetched) =
        (Fixture::new(16 * MIB, 64 * KIB, &link), Fixture::new(MIB, 64 * KIB, &link));
    let profile = engine.prefetch_profile(&profiled.blob, [at(0, 16 * MIB)]);
    let prefetch = async {
        tokio::task::yield_now().await;
        engine.prefetch(&prefetched.blob, at(0, MIB)).await
    };
    let (profile, prefetch) = tokio::join!(profile, prefetch);
    profile.expect("the source is well");
    prefetch.expect("the source is well");
    common::idle().await;
    assert_eq!(order(&engine), ["profile", "prefetch"]);
}

#[tokio::test(start_paused = true)]
async fn p2_a_waiting_readers_chunk_overtakes_from_the_middle_of_a_request_that_is_queued() {
    let config = EngineConfig { profile_requests_per_blob: 1, ..no_readahead() };
    let fixture = Fixture::new(16 * MIB, 64 * KIB, &Link::usual());
    let engine = engine_with(config);
    let began = Instant::now();
    let profile = engine.fill(&fixture.blob, at(0, 4 * MIB), Cause::Profile);
    let reader = async {
        sleep(Duration::from_millis(1)).await;
        // In the middle of the last of eight requests of 512 KiB.
        fixture.read(&engine, 3 * MIB + 768 * KIB..3 * MIB + 772 * KIB).await.expect("the source is well");
        began.elapsed()
    };
    let (profile, waited) = tokio::join!(profile, reader);
    profile.expect("what was overtaken was brought by the reader");
    assert!(waited < Duration::from_millis(50), "{waited:?}");
    assert_eq!(fixture.source.coverage(0..4 * MIB), (1, 1));
    common::idle().await;
    let pieces = engine.fills().iter().filter(|fill| fill.range.start() >= 3 * MIB + 512 * KIB).count();
    assert_eq!(pieces, 3, "the chunk, and what lies on both sides of it");
}

#[tokio::test(start_paused = true)]
async fn readahead_that_is_not_served_does_not_pile_up() {
    let config = EngineConfig {
        readahead_queued_per_blob_max: 4,
        readahead_requests_per_blob: 1,
        ..EngineConfig::default()
    };
    let fixture = Fixture::new(64 * MIB, 64 * KIB, &Link::new(Duration::from_millis(20), 2_500_000));
    let engine = engine_with(config);
    for n in 0..40 {
        // Each of these would have a window brought around it.
        fixture.read(&engine, n * 1536 * KIB..n * 1536 * KIB + 1).await.expect("the source is well");
        assert!(fixture.blob.flights_in_hand() <= (4 + 2 + 1) * 8, "{}", fixture.blob.flights_in_hand());
    }
}
