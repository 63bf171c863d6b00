//! Sources on this machine, whose requests are brought lane by lane: the same promises as for those elsewhere.

mod common;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use common::{DEMAND, KIB, MIB, at, engine, even, resources, table};
use futures_util::future::join_all;
use larder_fscache::{OnHole, memory::Memory};
use larder_ondemand::{Blob, Engine, FillError};
use larder_remote::{BlobRange, Error, RangeSource, ReadHere};
use tokio::task::JoinHandle;

/// No place in a source.
const NOWHERE: u64 = u64::MAX;

/// A file in memory that counts how often each byte was read.
struct Local {
    data: Bytes,
    served: Mutex<Vec<u8>>,
    /// What each read takes.
    takes: Duration,
    /// Whoever reads this byte panics.
    panics_at: AtomicU64,
}

fn index(range: Range<u64>) -> Range<usize> {
    let at = |n: u64| usize::try_from(n).expect("fits");
    at(range.start)..at(range.end)
}

#[async_trait]
impl RangeSource for Local {
    fn len(&self) -> u64 {
        self.data.len() as u64
    }

    fn describe(&self) -> String {
        "a file in memory".into()
    }

    async fn read_range(&self, range: BlobRange) -> Result<Bytes, Error> {
        self.read_here(range, Vec::new())
    }

    fn here(&self) -> Option<&dyn ReadHere> {
        Some(self)
    }
}

impl ReadHere for Local {
    fn read_here(&self, range: BlobRange, _: Vec<u8>) -> Result<Bytes, Error> {
        std::thread::sleep(self.takes);
        let range = range.start()..range.end();
        assert!(!range.contains(&self.panics_at.load(SeqCst)), "a defect of this source");
        let range = index(range);
        for count in &mut self.served.lock().expect("nobody panics with it")[range.clone()] {
            *count += 1;
        }
        Ok(self.data.slice(range))
    }
}

/// A blob and where it comes from.
struct Rig {
    source: Arc<Local>,
    blob: Arc<Blob>,
}

impl Rig {
    fn new(len: u64, takes: Duration) -> Self {
        let data = common::bytes(len, len);
        let table = table(&data, even(len, 64 * KIB));
        let (served, panics_at) = (Mutex::new(vec![0; data.len()]), AtomicU64::new(NOWHERE));
        let source = Arc::new(Local { data, served, takes, panics_at });
        let blob = Blob::new(
            "blob",
            resources(Memory::new(), len),
            table,
            Arc::clone(&source) as Arc<dyn RangeSource>,
        );
        Self { source, blob }
    }

    /// Begins to bring all of it, and returns once some has come.
    async fn prefetch(&self, engine: &Arc<Engine>) -> JoinHandle<Result<(), FillError>> {
        let (engine, blob) = (Arc::clone(engine), Arc::clone(&self.blob));
        let prefetch = tokio::spawn(async move { engine.prefetch(&blob, at(0, blob.size())).await });
        while self.served() == 0 {
            tokio::task::yield_now().await;
        }
        prefetch
    }

    fn served(&self) -> u64 {
        self.source.served.lock().expect("nobody panics with it").iter().map(|count| u64::from(*count)).sum()
    }

    fn assert_whole(&self) {
        let mut got = vec![0; self.source.data.len()];
        self.blob.resources().read(0, &mut got, OnHole::Fail).expect("all of it is there");
        assert!(got == self.source.data);
        assert_eq!(self.served(), self.source.len(), "each byte was read once");
        assert_eq!(self.blob.flights_in_hand(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p6_readers_and_a_prefetch_at_once_read_each_byte_once() {
    let (rig, engine) = (Rig::new(32 * MIB, Duration::ZERO), engine());
    let prefetch = engine.prefetch(&rig.blob, at(0, 32 * MIB));
    let readers =
        join_all((0..64).rev().map(|n| engine.fill(&rig.blob, at(n * 512 * KIB, 512 * KIB), DEMAND)));
    let (prefetched, read) = tokio::join!(prefetch, readers);
    prefetched.expect("the bytes are good");
    read.into_iter().for_each(|result| result.expect("the bytes are good"));
    rig.assert_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_overtakes_what_a_prefetch_has_only_queued() {
    let (rig, engine) = (Rig::new(64 * MIB, Duration::from_millis(2)), engine());
    let prefetch = rig.prefetch(&engine).await;
    engine.fill(&rig.blob, at(63 * MIB, MIB), DEMAND).await.expect("the bytes are good");
    assert!(rig.served() < 60 * MIB, "{} bytes were read before those of the reader", rig.served());
    prefetch.await.expect("it does not panic").expect("the bytes are good");
    rig.assert_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawal_waits_for_a_request_and_not_for_the_lane() {
    let (rig, engine) = (Rig::new(64 * MIB, Duration::from_millis(2)), engine());
    let prefetch = rig.prefetch(&engine).await;
    engine.withdraw(&rig.blob).await;
    let served = rig.served();
    assert!(served < 60 * MIB, "{served} bytes were read on");
    assert_eq!(rig.blob.flights_in_hand(), 0);
    prefetch.await.expect("it does not panic").expect_err("it was given up");
    assert_eq!(rig.served(), served, "nothing is read after the withdrawal");
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_a_defect_in_a_lane_is_an_error_and_the_next_read_tries_again() {
    let (rig, engine) = (Rig::new(4 * MIB, Duration::ZERO), engine());
    rig.source.panics_at.store(MIB, SeqCst);
    let result = engine.fill(&rig.blob, at(0, 4 * MIB), DEMAND).await;
    assert!(matches!(result, Err(FillError::Abandoned { .. })), "{result:?}");
    rig.source.panics_at.store(NOWHERE, SeqCst);
    engine.fill(&rig.blob, at(0, 4 * MIB), DEMAND).await.expect("the bytes are good");
    rig.assert_whole();
}
