//! A cold sequential read fills the link: at least 0.9 of its bandwidth (the benchmark's figure, here on paused time).

use larder_ondemand::{Cause, EngineConfig};
use tokio::time::Instant;

use crate::common::{self, DEMAND, Fixture, KIB, Link, MIB, engine, engine_with, no_readahead};

const LEN: u64 = 64 * MIB;

/// Reads `LEN` bytes in events of 128 KiB, one after the other; returns the share of the link's bandwidth.
async fn share(config: EngineConfig, chunk: u64, link: &std::sync::Arc<Link>, bytes_per_second: f64) -> f64 {
    share_of(&Fixture::new(LEN, chunk, link), config, bytes_per_second).await
}

async fn share_of(fixture: &Fixture, config: EngineConfig, bytes_per_second: f64) -> f64 {
    let engine = engine_with(config);
    let began = Instant::now();
    for n in 0..LEN / (128 * KIB) {
        fixture.read(&engine, n * 128 * KIB..(n + 1) * 128 * KIB).await.expect("the source is well");
    }
    assert_eq!(fixture.source.bytes_served(), LEN, "nothing is fetched twice");
    #[expect(clippy::cast_precision_loss, reason = "64 Mi is exact")]
    let ideal = LEN as f64 / bytes_per_second;
    ideal / began.elapsed().as_secs_f64()
}

#[tokio::test(start_paused = true)]
async fn one_sequential_reader_has_nine_tenths_of_the_link() {
    for chunk in [64 * KIB, MIB] {
        let share = share(EngineConfig::default(), chunk, &Link::usual(), 25e6).await;
        println!("20 ms, 200 Mbit/s, chunks of {} KiB: {share:.3} of the link", chunk / KIB);
        assert!(share >= 0.9, "chunk {chunk}: {share}");
    }
}

#[tokio::test(start_paused = true)]
async fn it_has_them_from_a_source_that_hands_over_whole_answers_too() {
    let fixture = Fixture::new(LEN, 64 * KIB, &Link::usual());
    fixture.source.streams.store(false, std::sync::atomic::Ordering::SeqCst);
    let share = share_of(&fixture, EngineConfig::default(), 25e6).await;
    println!("whole answers: {share:.3} of the link");
    assert!(share >= 0.9, "{share}");
}

#[tokio::test(start_paused = true)]
async fn without_readahead_it_has_not() {
    let share = share(no_readahead(), 64 * KIB, &Link::usual(), 25e6).await;
    println!("without readahead: {share:.3} of the link");
    assert!(share < 0.5, "{share}");
}

#[tokio::test(start_paused = true)]
async fn a_longer_and_wider_link_is_filled_too() {
    let link = Link::new(std::time::Duration::from_millis(20), 125_000_000);
    let share = share(EngineConfig::default(), 64 * KIB, &link, 125e6).await;
    println!("20 ms, 1 Gbit/s: {share:.3} of the link");
    assert!(share >= 0.4, "{share}");
}

#[tokio::test(start_paused = true)]
async fn a_reader_slower_than_the_link_waits_only_at_the_start() {
    let fixture = Fixture::new(16 * MIB, 64 * KIB, &Link::usual());
    let engine = engine();
    for n in 0..128 {
        fixture.read(&engine, n * 128 * KIB..(n + 1) * 128 * KIB).await.expect("the source is well");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let faults = engine.faults();
    let waited: std::time::Duration = faults.iter().map(|fault| fault.waited).sum();
    assert!(faults.len() < 16, "{} faults", faults.len());
    assert!(waited.as_millis() < 200, "of 1.4 s: {waited:?}");
}

#[tokio::test(start_paused = true)]
async fn records_tell_what_was_fetched_and_who_waited() {
    let fixture = Fixture::new(MIB, 64 * KIB, &Link::usual());
    let engine = engine_with(no_readahead());
    engine.fill(&fixture.blob, common::at(70 * KIB, 10), DEMAND).await.expect("the source is well");
    common::idle().await;
    let (faults, fills) = (engine.faults(), engine.fills());
    assert_eq!((faults.len(), fills.len()), (1, 1));
    assert_eq!(faults[0].range, common::at(68 * KIB, 4 * KIB), "in whole blocks");
    assert_eq!(faults[0].pid, Some(1));
    assert!(faults[0].ok && fills[0].ok);
    assert!(faults[0].waited.as_millis() >= 20 && fills[0].took.as_millis() >= 20);
    assert_eq!(fills[0].range, common::at(64 * KIB, 64 * KIB));
    assert_eq!(fills[0].cause, Cause::Demand { pid: Some(1) });
    assert_eq!(&*fills[0].blob, "blob");
}
