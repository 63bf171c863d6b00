//! What the tests share: a blob on a simulated link, and what they ask of it.

mod fixture;

use std::{ops::Range, sync::Arc, time::Duration};

use larder_fscache::ObjectRange;
use larder_ondemand::{Engine, EngineConfig};
use larder_remote::BlobRange;
use tokio::time::sleep;

pub use fixture::{
    DEMAND, Fixture, KIB, Link, MIB, Source, bytes, engine_with, even, index, no_readahead, resources, table,
};

impl Source {
    /// How often each byte of `range` was sent: lowest and highest.
    pub fn coverage(&self, range: Range<u64>) -> (u8, u8) {
        let served = self.served.lock().expect("no test panics here");
        let served = &served[index(range)];
        (*served.iter().min().expect("not empty"), *served.iter().max().expect("not empty"))
    }

    pub fn bytes_served(&self) -> u64 {
        self.served.lock().expect("no test panics here").iter().map(|count| u64::from(*count)).sum()
    }
}

impl Fixture {
    pub fn present_bytes(&self) -> u64 {
        self.blob.resources().present_bytes()
    }
}

pub fn engine() -> Arc<Engine> {
    engine_with(EngineConfig::default())
}

pub fn at(start: u64, len: u64) -> ObjectRange {
    ObjectRange::at(start, len)
}

/// Waits until nothing is left to do: a request's record, for one, is written after its last reader was answered.
pub async fn idle() {
    sleep(Duration::from_millis(1)).await;
}

/// Takes the time for each 128 KiB of `range`, and says each time that they have come.
pub fn in_parts(range: BlobRange, take: impl Fn(), came: &dyn Fn()) {
    for _ in 0..range.len().div_ceil(128 * KIB) {
        take();
        came();
    }
}
