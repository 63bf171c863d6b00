//! P2: however many readers meet a hole, its bytes are fetched once.

use futures_util::future::join_all;
use larder_ondemand::Cause;

use crate::common::{self, DEMAND, Fixture, KIB, Link, MIB, at, engine, engine_with, no_readahead};

#[tokio::test(start_paused = true)]
async fn p2_sixty_four_readers_of_one_cold_range_fetch_each_byte_once() {
    let fixture = Fixture::new(4 * MIB, 64 * KIB, &Link::usual());
    let engine = engine_with(no_readahead());
    let readers = (0..64).map(|_| fixture.read(&engine, MIB..2 * MIB));
    for result in join_all(readers).await {
        result.expect("every reader gets its bytes");
    }
    assert_eq!(fixture.source.coverage(MIB..2 * MIB), (1, 1));
    assert_eq!(fixture.source.bytes_served(), MIB);
    assert_eq!(fixture.blob.flights_in_hand(), 0);
}

#[tokio::test(start_paused = true)]
async fn p2_readers_of_overlapping_ranges_with_readahead_and_prefetch_fetch_each_byte_once() {
    for seed in 0..8 {
        let mut random = fastrand::Rng::with_seed(seed);
        let fixture = Fixture::new(8 * MIB - 77, 64 * KIB, &Link::usual());
        let engine = engine();
        let size = fixture.blob.size();
        let readers = (0..64).map(|_| {
            let start = random.u64(0..size);
            let end = (start + random.u64(1..512 * KIB)).min(size);
            let pause = random.u64(0..400);
            let (fixture, engine) = (&fixture, &engine);
            async move {
                tokio::time::sleep(std::time::Duration::from_millis(pause)).await;
                fixture.read(engine, start..end).await
            }
        });
        let prefetch = engine.prefetch(&fixture.blob, at(0, size));
        let (read, prefetched) = tokio::join!(join_all(readers), prefetch);
        assert!(read.iter().all(Result::is_ok), "seed {seed}");
        prefetched.expect("the source is well");
        fixture.assert_present(0..size);
        assert_eq!(fixture.source.coverage(0..size), (1, 1), "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn neighbouring_chunks_are_one_request_and_what_is_present_is_not_asked_for() {
    let fixture = Fixture::new(4 * MIB, 64 * KIB, &Link::usual());
    let engine = engine_with(no_readahead());
    engine.fill(&fixture.blob, at(128 * KIB, 1), DEMAND).await.expect("the source is well");
    engine.fill(&fixture.blob, at(0, 320 * KIB), DEMAND).await.expect("the source is well");
    common::idle().await;
    let stored: Vec<(u64, u64)> =
        engine.fills().iter().map(|fill| (fill.stored.start() / KIB, fill.stored.end() / KIB)).collect();
    assert_eq!(stored, [(128, 192), (0, 128), (192, 320)]);
    assert_eq!(fixture.blob.stats().requests, 3);
    assert_eq!(fixture.blob.stats().fetched_bytes, 320 * KIB);
}

#[tokio::test(start_paused = true)]
async fn distant_chunks_are_fetched_side_by_side() {
    let fixture = Fixture::new(16 * MIB, 64 * KIB, &Link::usual());
    let engine = engine_with(no_readahead());
    let began = tokio::time::Instant::now();
    let readers = (0..8).map(|n| fixture.read(&engine, n * 2 * MIB..n * 2 * MIB + 4 * KIB));
    assert!(join_all(readers).await.iter().all(Result::is_ok));
    assert!(began.elapsed().as_millis() < 45, "one round trip and half a megabyte: {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_chunk_is_handed_out_as_soon_as_its_bytes_are_here() {
    let fixture = Fixture::new(16 * MIB, 64 * KIB, &Link::usual());
    let engine = engine_with(no_readahead());
    let began = tokio::time::Instant::now();
    let whole = engine.fill(&fixture.blob, at(0, 512 * KIB), Cause::Readahead);
    let first = async {
        tokio::task::yield_now().await;
        fixture.read(&engine, 0..64 * KIB).await.expect("the source is well");
        began.elapsed()
    };
    let (_, first) = tokio::join!(whole, first);
    assert!(first.as_millis() < 30, "{first:?}");
    assert!(began.elapsed().as_millis() >= 40);
}
