//! Sources on this machine, whose requests are brought lane by lane: the same promises as for those elsewhere.

use std::num::NonZero;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use larder_fscache::{OnHole, memory::Memory};
use larder_ondemand::{Blob, Engine, EngineConfig, FillError};
use larder_remote::{BlobRange, Error, RangeSource, ReadHere};
use tokio::{task::JoinHandle, time::timeout};

use crate::common::{
    self, DEMAND, KIB, MIB, at, engine, engine_with, even, index, no_readahead, resources, table,
};

/// Lanes of one file system in tests of those that hang.
const LANES: usize = 2;

/// A reader waits longer than a test.
fn few_lanes() -> EngineConfig {
    let decoders = NonZero::new(LANES).expect("not zero");
    EngineConfig { decoders, deadline: 10 * MINUTE, ..no_readahead() }
}

async fn at_once<T>(done: impl Future<Output = T>) -> T {
    timeout(MINUTE, done).await.expect("nobody waits for what hangs")
}

const MINUTE: Duration = Duration::from_secs(60);

/// No place in a source.
const NOWHERE: u64 = u64::MAX;

/// A file in memory that counts how often each byte was read.
struct Local {
    file_system: u64,
    data: Bytes,
    served: Mutex<Vec<u8>>,
    served_bytes: AtomicU64,
    /// What 128 KiB take.
    takes: Duration,
    /// Whoever reads this byte panics.
    panics_at: AtomicU64,
    hanging: Hanging,
}

/// Where reads wait while their file system hangs.
#[derive(Default)]
struct Hanging {
    hangs: Mutex<bool>,
    changed: Condvar,
    waiting: AtomicUsize,
}

impl Hanging {
    fn set(&self, hangs: bool) {
        *self.hangs.lock().expect("nobody panics with it") = hangs;
        self.changed.notify_all();
    }

    fn pass(&self) {
        let hangs = self.hangs.lock().expect("nobody panics with it");
        self.waiting.fetch_add(1, SeqCst);
        drop(self.changed.wait_while(hangs, |hangs| *hangs));
        self.waiting.fetch_sub(1, SeqCst);
    }
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
        self.read_here(range, Vec::new(), &|| ())
    }

    fn here(&self) -> Option<&dyn ReadHere> {
        Some(self)
    }
}

impl ReadHere for Local {
    fn file_system(&self) -> u64 {
        self.file_system
    }

    fn read_here(&self, range: BlobRange, _: Vec<u8>, came: &dyn Fn()) -> Result<Bytes, Error> {
        self.hanging.pass();
        common::in_parts(range, || std::thread::sleep(self.takes), came);
        let range = range.start()..range.end();
        assert!(!range.contains(&self.panics_at.load(SeqCst)), "a defect of this source");
        self.served_bytes.fetch_add(range.end - range.start, SeqCst);
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
        Self::on(0, len, takes)
    }

    /// In a file system of its own.
    fn on(file_system: u64, len: u64, takes: Duration) -> Self {
        let data = common::bytes(len, len);
        let table = table(&data, even(len, 64 * KIB));
        let (served, panics_at) = (Mutex::new(vec![0; data.len()]), AtomicU64::new(NOWHERE));
        let hanging = Hanging::default();
        let served_bytes = AtomicU64::new(0);
        let source = Arc::new(Local { file_system, data, served, served_bytes, takes, panics_at, hanging });
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

    /// Begins to read all of it with every lane of its file system, all of which hang.
    async fn hang(&self, engine: &Arc<Engine>) -> JoinHandle<Result<(), FillError>> {
        self.source.hanging.set(true);
        let (engine, blob) = (Arc::clone(engine), Arc::clone(&self.blob));
        let reader = tokio::spawn(async move { engine.fill(&blob, at(0, blob.size()), DEMAND).await });
        while self.source.hanging.waiting.load(SeqCst) < LANES {
            tokio::task::yield_now().await;
        }
        reader
    }

    fn served(&self) -> u64 {
        self.source.served_bytes.load(SeqCst)
    }

    fn assert_whole(&self) {
        let mut got = vec![0; self.source.data.len()];
        self.blob.resources().read(0, &mut got, OnHole::Fail).expect("all of it is there");
        assert!(got == self.source.data);
        let served = self.source.served.lock().expect("nobody panics with it");
        assert!(served.iter().all(|count| *count == 1), "each byte is read once");
        assert_eq!(self.blob.flights_in_hand(), 0);
    }
}

impl Drop for Rig {
    /// The runtime of a test that has failed waits for its threads.
    fn drop(&mut self) {
        self.source.hanging.set(false);
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
async fn whoever_has_all_lanes_of_a_file_system_shares_them_when_somebody_else_comes() {
    let engine = engine_with(few_lanes());
    let takes = Duration::from_millis(2);
    let (first, second) = (Rig::new(64 * MIB, takes), Rig::new(MIB, takes));
    let prefetch = first.prefetch(&engine).await;
    engine.prefetch(&second.blob, at(0, MIB)).await.expect("the bytes are good");
    assert!(first.served() < 48 * MIB, "{} bytes were read before those of the other", first.served());
    prefetch.await.expect("it does not panic").expect("the bytes are good");
    first.assert_whole();
    second.assert_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawal_waits_for_a_request_and_not_for_the_lane() {
    let (rig, engine) = (Rig::new(64 * MIB, Duration::from_millis(2)), engine());
    let prefetch = rig.prefetch(&engine).await;
    engine.withdraw(&rig.blob).await;
    let present = rig.blob.resources().present_bytes();
    assert!(present < 60 * MIB, "{present} bytes were read on");
    assert_eq!(rig.blob.flights_in_hand(), 0);
    prefetch.await.expect("it does not panic").expect_err("it was given up");
    assert_eq!(rig.blob.resources().present_bytes(), present, "nothing is written after the withdrawal");
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_a_file_system_that_hangs_keeps_no_reader_of_another_waiting() {
    let engine = engine_with(few_lanes());
    let (hung, well) = (Rig::on(1, 8 * MIB, Duration::ZERO), Rig::on(2, 4 * MIB, Duration::ZERO));
    let reader = hung.hang(&engine).await;
    at_once(engine.fill(&well.blob, at(0, 4 * MIB), DEMAND)).await.expect("the bytes are good");
    well.assert_whole();
    hung.source.hanging.set(false);
    reader.await.expect("it does not panic").expect("it only took long");
    hung.assert_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_many_file_systems_that_hang_keep_no_reader_of_another_waiting() {
    let engine = engine_with(EngineConfig { stall: Duration::from_millis(100), ..few_lanes() });
    let (hung, well) =
        ((0..16).map(|n| Rig::on(n, 4 * MIB, Duration::ZERO)), Rig::on(99, 4 * MIB, Duration::ZERO));
    let hung: Vec<_> = hung.collect();
    let mut readers = Vec::new();
    for rig in &hung {
        readers.push(rig.hang(&engine).await);
    }
    at_once(engine.fill(&well.blob, at(0, 4 * MIB), DEMAND)).await.expect("the bytes are good");
    well.assert_whole();
    hung.iter().for_each(|rig| rig.source.hanging.set(false));
    for reader in readers {
        reader.await.expect("it does not panic").expect("it only took long");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_a_prefetch_that_hangs_keeps_nobody_elses_waiting() {
    let stall = Duration::from_millis(100);
    let engine = engine_with(EngineConfig { stall, prefetch_bytes: 1, ..few_lanes() });
    let (hung, well) = (Rig::on(1, 8 * MIB, Duration::ZERO), Rig::on(2, 4 * MIB, Duration::ZERO));
    hung.source.hanging.set(true);
    let prefetch = tokio::spawn({
        let (engine, blob) = (Arc::clone(&engine), Arc::clone(&hung.blob));
        async move { engine.prefetch(&blob, at(0, blob.size())).await }
    });
    while hung.source.hanging.waiting.load(SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    at_once(engine.prefetch(&well.blob, at(0, 4 * MIB))).await.expect("the bytes are good");
    well.assert_whole();
    hung.source.hanging.set(false);
    prefetch.await.expect("it does not panic").expect("it only took long");
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_whoever_waits_for_leave_to_read_where_nothing_moves_waits_no_longer_than_a_reader() {
    let engine = engine_with(EngineConfig { deadline: Duration::from_millis(100), ..few_lanes() });
    let (hung, other) = (Rig::on(1, 8 * MIB, Duration::ZERO), Rig::on(1, MIB, Duration::ZERO));
    let reader = hung.hang(&engine).await;
    engine.fill(&other.blob, at(0, MIB), DEMAND).await.expect_err("nobody reads it");
    at_once(async {
        while other.blob.flights_in_hand() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    reader.await.expect("it does not panic").expect_err("it waited as long as it may");
    hung.source.hanging.set(false);
    at_once(async { while engine.fill(&other.blob, at(0, MIB), DEMAND).await.is_err() {} }).await;
    other.assert_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn p4_a_withdrawal_does_not_wait_for_a_file_system_that_hangs_and_nothing_is_written_after_it() {
    let engine = engine_with(few_lanes());
    let rig = Rig::on(1, 8 * MIB, Duration::ZERO);
    let reader = rig.hang(&engine).await;
    at_once(engine.withdraw(&rig.blob)).await;
    assert_eq!(rig.blob.flights_in_hand(), 0);
    reader.await.expect("it does not panic").expect_err("the blob was withdrawn");
    assert_eq!(Arc::strong_count(&rig.blob), 1, "a thread has it still");
    rig.source.hanging.set(false);
    at_once(async {
        // The threads let go of their source when they end.
        while Arc::strong_count(&rig.source) > 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(rig.served() > 0, "the late bytes came");
    assert_eq!(rig.blob.resources().present_bytes(), 0, "and were dropped");
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
