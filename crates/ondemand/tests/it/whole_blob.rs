//! Any chunks, any reads: what is present is right, and in the end everything is.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::SeqCst},
};

use larder_ondemand::EngineConfig;

use crate::common::{self, Fixture, KIB, Link, MIB, bytes, engine, engine_with, no_readahead};

#[tokio::test(start_paused = true)]
async fn chunks_that_end_anywhere_are_filled_right() {
    for seed in 0..20 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut ends = Vec::new();
        let mut end = 0;
        while end < 300 * KIB {
            end += if random.bool() { random.u64(1..3000) } else { random.u64(1..20_000) };
            ends.push(end);
        }
        let fixture = Fixture::with_chunks(bytes(end, seed), ends, &Link::usual());
        let engine = engine();
        for _ in 0..100 {
            let start = random.u64(0..end);
            let until = (start + random.u64(1..30_000)).min(end);
            fixture.read(&engine, start..until).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        }
        fixture.read(&engine, 0..end).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert!(fixture.blob.is_complete());
    }
}

#[tokio::test(start_paused = true)]
async fn a_blob_that_becomes_complete_is_told_once() {
    let fixture = Fixture::new(2 * MIB, 64 * KIB, &Link::usual());
    let engine = engine();
    let told = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&told);
    engine.on_complete(move |blob| {
        assert!(blob.is_complete());
        count.fetch_add(1, SeqCst);
    });
    fixture.read(&engine, 0..MIB).await.expect("the source is well");
    assert_eq!(told.load(SeqCst), 0);
    let halves = tokio::join!(fixture.read(&engine, MIB..2 * MIB), fixture.read(&engine, 0..2 * MIB));
    assert!(halves.0.is_ok() && halves.1.is_ok());
    fixture.read(&engine, 0..2 * MIB).await.expect("it is all there");
    common::idle().await;
    assert_eq!(told.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_fill_larger_than_every_budget_goes_through() {
    let config = EngineConfig { demand_bytes: 64 << 10, window_bytes_max: 300_000, ..no_readahead() };
    let fixture = Fixture::new(3 * MIB, 256 * KIB, &Link::usual());
    fixture.read(&engine_with(config), 0..3 * MIB).await.expect("the source is well");
    assert_eq!(fixture.source.coverage(0..3 * MIB), (1, 1));
}

#[test]
fn it_works_on_many_threads_and_real_time() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .expect("a runtime");
    let link = Link::new(std::time::Duration::from_micros(200), 400_000_000);
    let (fixture, engine) = runtime.block_on(async { (Fixture::new(16 * MIB, 16 * KIB, &link), engine()) });
    let (send, done) = std::sync::mpsc::channel();
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..500 {
        let (start, send) = (random.u64(0..16 * MIB), send.clone());
        let want = common::at(start, random.u64(1..300 * KIB));
        engine.spawn_fill(&fixture.blob, want, common::DEMAND, move |result| {
            send.send((want.clamp_to(16 * MIB), result)).expect("the test waits");
        });
    }
    drop(send);
    for (want, result) in done {
        result.expect("the source is well");
        fixture.assert_present(want.start()..want.end());
    }
    assert!(fixture.source.coverage(0..16 * MIB).1 <= 1, "no byte twice");
}
