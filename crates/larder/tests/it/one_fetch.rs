//! Show 4: however many readers meet a hole, its bytes are fetched once.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use crate::support::program::User;
use crate::support::{Image, Larder, skip, tree};

const READERS: usize = 64;
const RANGE: std::ops::Range<u64> = 3 << 20..5 << 20;

fn p2_64_readers_of_one_cold_range_cost_one_fetch_through(frontend: &str) {
    let larder = Larder::new(User::Same);
    if let Some(why) = larder.cannot(frontend) {
        return skip(&format!("p2_64_readers_of_one_cold_range_cost_one_fetch_through_{frontend}"), &why);
    }
    let source = larder.dir("source");
    let content = tree::noise(4, 16 << 20);
    std::fs::write(source.join("big"), &content).expect("a file");
    let image = Image::build(&larder, &source, "layout");
    image.registry.set_latency(Duration::from_millis(20));
    let target = larder.mount(&image.reference(), "mnt", frontend);
    image.registry.reset_ledger();
    read_at_once(&target.join("big"), &content);
    let ledger = image.registry.ledger();
    for digest in image.devices() {
        assert_eq!(ledger.max_times_served(&digest), 1, "{digest}");
    }
    assert!(ledger.bytes_served() >= RANGE.end - RANGE.start);
    // What is here is not fetched again, whoever reads it.
    let before = image.registry.bytes_served();
    read_at_once(&target.join("big"), &content);
    thread::sleep(Duration::from_millis(300));
    for digest in image.devices() {
        assert_eq!(image.registry.max_times_served(&digest), 1, "{digest} after {before}");
    }
}

fn read_at_once(path: &Path, content: &[u8]) {
    let barrier = Barrier::new(READERS);
    thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                let file = File::open(path).expect("it is there");
                let mut found = vec![0; usize::try_from(RANGE.end - RANGE.start).expect("small")];
                barrier.wait();
                file.read_exact_at(&mut found, RANGE.start).expect("the registry is honest");
                let expected = usize::try_from(RANGE.start).expect("small");
                assert!(found == content[expected..expected + found.len()], "other bytes than the image's");
            });
        }
    });
}

#[test]
fn p2_64_readers_of_one_cold_range_cost_one_fetch_through_fanotify() {
    p2_64_readers_of_one_cold_range_cost_one_fetch_through("fanotify");
}

#[test]
fn p2_64_readers_of_one_cold_range_cost_one_fetch_through_fuse_blob() {
    p2_64_readers_of_one_cold_range_cost_one_fetch_through("fuse-blob");
}

#[test]
fn p2_64_readers_of_one_cold_range_cost_one_fetch_through_cachefiles() {
    p2_64_readers_of_one_cold_range_cost_one_fetch_through("cachefiles");
}

#[test]
fn p2_64_readers_of_one_cold_range_cost_one_fetch_through_fuse() {
    p2_64_readers_of_one_cold_range_cost_one_fetch_through("fuse");
}
