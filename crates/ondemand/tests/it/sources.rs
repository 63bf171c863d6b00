//! Blobs that several places have: one that is gone, hangs or lies fails nobody while another is well.

use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use larder_fscache::memory::Memory;
use larder_ondemand::{Blob, EngineConfig, FillError, SourceLease};
use larder_remote::{BlobRange, Error, RangeSource, ReadHere};

use crate::common::{
    self, DEMAND, Fixture, KIB, Link, MIB, Source, at, engine, engine_with, even, idle, no_readahead,
    resources, table,
};

/// A place of its own: sources of the same place replace each other.
struct Mirror(Arc<Source>);

#[async_trait]
impl RangeSource for Mirror {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn describe(&self) -> String {
        "a mirror".into()
    }

    async fn read_range(&self, range: BlobRange) -> Result<Bytes, Error> {
        self.0.read_range(range).await
    }

    async fn read_stream(&self, range: BlobRange, sink: &mut (dyn FnMut(Bytes) + Send)) -> Result<(), Error> {
        self.0.read_stream(range, sink).await
    }
}

/// A blob with a second place, as long as the lease is held.
fn rig() -> (Fixture, Arc<Source>, SourceLease) {
    let rig = Fixture::new(4 * MIB, 64 * KIB, &Link::usual());
    let source = Source::of(&rig.data, &Link::usual());
    let lease = rig.blob.add_source(Arc::new(Mirror(Arc::clone(&source))));
    (rig, source, lease)
}

#[tokio::test(start_paused = true)]
async fn p3_a_place_that_is_gone_fails_nobody_while_another_has_the_blob() {
    let ((rig, mirror, _lease), engine) = (rig(), engine_with(no_readahead()));
    mirror.failures.store(u32::MAX, SeqCst);
    rig.read(&engine, 0..MIB).await.expect("the first place has it");
    let asked = mirror.requests.load(SeqCst);
    assert!(asked > 0, "it was asked first");
    rig.read(&engine, MIB..2 * MIB).await.expect("the first place has it");
    assert_eq!(mirror.requests.load(SeqCst), asked, "a place that failed is asked last");
    rig.source.failures.store(u32::MAX, SeqCst);
    mirror.failures.store(0, SeqCst);
    rig.read(&engine, 2 * MIB..4 * MIB).await.expect("the mirror is back");
}

#[tokio::test(start_paused = true)]
async fn p3_where_all_places_are_gone_each_was_asked_and_the_reader_gets_an_error() {
    let ((rig, mirror, _lease), engine) = (rig(), engine_with(no_readahead()));
    mirror.failures.store(u32::MAX, SeqCst);
    rig.source.failures.store(u32::MAX, SeqCst);
    let error = rig.read(&engine, 0..MIB).await.expect_err("nobody has it");
    assert!(matches!(error, FillError::Fetch { .. }), "{error:?}");
    assert!(mirror.requests.load(SeqCst) > 0 && rig.source.requests.load(SeqCst) > 0);
    idle().await;
    assert_eq!(rig.blob.flights_in_hand(), 0);
}

#[tokio::test(start_paused = true)]
async fn p3_a_place_that_hangs_leaves_time_for_another() {
    let ((rig, mirror, _lease), engine) = (rig(), engine_with(no_readahead()));
    mirror.open.send_replace(false);
    rig.read(&engine, 0..MIB).await.expect("the first place has it");
    rig.read(&engine, MIB..2 * MIB).await.expect("the first place has it");
}

#[tokio::test(start_paused = true)]
async fn p3_a_place_that_was_given_up_is_waited_for_when_nobody_else_has_the_bytes() {
    let ((rig, mirror, _lease), engine) = (rig(), engine_with(no_readahead()));
    mirror.open.send_replace(false);
    rig.source.failures.store(u32::MAX, SeqCst);
    let back = async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        mirror.open.send_replace(true);
    };
    let (read, ()) = tokio::join!(rig.read(&engine, 0..MIB), back);
    read.expect("half a minute is no failure");
}

#[tokio::test(start_paused = true)]
async fn a_place_whose_image_has_gone_is_asked_no_more_unless_it_is_the_last() {
    let ((rig, mirror, lease), engine) = (rig(), engine_with(no_readahead()));
    drop(lease);
    rig.read(&engine, 0..MIB).await.expect("the first place has it");
    assert_eq!(mirror.requests.load(SeqCst), 0);
    drop(rig.blob.lease_first_source());
    rig.read(&engine, MIB..2 * MIB).await.expect("somebody has to be asked");
}

#[tokio::test(start_paused = true)]
async fn p2_one_lie_is_mended_by_the_liar_where_the_others_are_gone() {
    let ((rig, mirror, _lease), engine) = (rig(), engine_with(no_readahead()));
    mirror.flips.store(1, SeqCst);
    mirror.flipped_byte.store(100 * KIB, SeqCst);
    rig.source.failures.store(u32::MAX, SeqCst);
    rig.read(&engine, 0..256 * KIB).await.expect("a proxy's fault may pass");
}

#[tokio::test(start_paused = true)]
async fn p2_bytes_that_a_place_lies_about_come_from_another() {
    let ((rig, mirror, _lease), engine) = (rig(), engine_with(no_readahead()));
    mirror.flips.store(u32::MAX, SeqCst);
    mirror.flipped_byte.store(100 * KIB, SeqCst);
    rig.read(&engine, 0..MIB).await.expect("the first place does not lie");
    assert_eq!(rig.source.coverage(64 * KIB..128 * KIB), (1, 1), "the one chunk was fetched there");
    assert_eq!(rig.source.bytes_served(), 64 * KIB);
}

/// A file that is here, and whose reads fail, or lie, or take long.
struct Here {
    data: Option<Bytes>,
    len: u64,
    takes: Duration,
}

#[async_trait]
impl RangeSource for Here {
    fn len(&self) -> u64 {
        self.len
    }

    fn describe(&self) -> String {
        "a file".into()
    }

    async fn read_range(&self, range: BlobRange) -> Result<Bytes, Error> {
        self.read_here(range, Vec::new(), &|| ())
    }

    fn here(&self) -> Option<&dyn ReadHere> {
        Some(self)
    }
}

impl ReadHere for Here {
    fn file_system(&self) -> u64 {
        0
    }

    fn read_here(&self, range: BlobRange, _: Vec<u8>, came: &dyn Fn()) -> Result<Bytes, Error> {
        let at = |n: u64| usize::try_from(n).expect("fits");
        common::in_parts(range, || std::thread::sleep(self.takes), came);
        let data = self.data.as_ref().ok_or_else(|| Error::Io {
            place: self.describe(),
            source: std::io::ErrorKind::NotFound.into(),
        })?;
        Ok(data.slice(at(range.start())..at(range.end())))
    }
}

/// A blob that lies here, as `here` says, and elsewhere as it should.
fn here_and_elsewhere(here: Here, data: &Bytes) -> (Fixture, SourceLease) {
    let source = Source::of(data, &Link::new(Duration::ZERO, 1 << 30));
    let chunks = table(data, even(4 * MIB, 64 * KIB));
    let cookie = resources(Memory::new(), 4 * MIB);
    let blob = Blob::new("blob", cookie, chunks, Arc::clone(&source) as Arc<dyn RangeSource>);
    let lease = blob.add_source(Arc::new(here));
    (Fixture { data: data.clone(), source, blob }, lease)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_file_here_does_not_have_or_has_wrong_comes_from_elsewhere() {
    let data = common::bytes(4 * MIB, 1);
    let mut wrong = data.to_vec();
    wrong[100 << 10] ^= 1;
    wrong[3 << 20] ^= 1;
    for lies in [None, Some(Bytes::from(wrong))] {
        let wrong_chunks = if lies.is_some() { 2 } else { 64 };
        let here = Here { data: lies, len: 4 * MIB, takes: Duration::ZERO };
        let (rig, _lease) = here_and_elsewhere(here, &data);
        rig.read(&engine(), 0..4 * MIB).await.expect("elsewhere it is well");
        assert_eq!(rig.source.bytes_served(), wrong_chunks * 64 * KIB);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_a_file_system_here_that_hangs_is_given_up_for_another_place() {
    let data = common::bytes(4 * MIB, 1);
    let hangs = Duration::from_secs(1);
    let here = Here { data: Some(data.clone()), len: 4 * MIB, takes: hangs };
    let (rig, _lease) = here_and_elsewhere(here, &data);
    let engine = engine_with(EngineConfig { stall: Duration::from_millis(100), ..no_readahead() });
    let began = std::time::Instant::now();
    rig.read(&engine, 0..4 * MIB).await.expect("elsewhere it is well");
    assert!(began.elapsed() < 5 * hangs, "nobody waited for all of its 32 pieces");
    assert_eq!(rig.source.bytes_served(), 4 * MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_a_thread_that_hangs_here_keeps_no_other_blob_from_its_other_place() {
    let data = common::bytes(4 * MIB, 1);
    let hangs = Duration::from_secs(2);
    let config =
        EngineConfig { decoders: NonZero::<usize>::MIN, stall: Duration::from_millis(100), ..no_readahead() };
    let engine = engine_with(config);
    let here = Here { data: Some(data.clone()), len: 4 * MIB, takes: hangs };
    let chunks = table(&data, even(4 * MIB, 64 * KIB));
    let hung = Blob::new("hung", resources(Memory::new(), 4 * MIB), chunks, Arc::new(here));
    let reader = tokio::spawn({
        let (engine, hung) = (Arc::clone(&engine), Arc::clone(&hung));
        async move { engine.fill(&hung, at(0, 4096), DEMAND).await }
    });
    while engine.readers_waiting() == 0 {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let (rig, _lease) =
        here_and_elsewhere(Here { data: Some(data.clone()), len: 4 * MIB, takes: Duration::ZERO }, &data);
    let began = std::time::Instant::now();
    rig.read(&engine, 0..64 * KIB).await.expect("elsewhere it is well");
    assert!(began.elapsed() < hangs / 2, "it waited for the other blob's file system");
    assert_eq!(rig.source.bytes_served(), 64 * KIB);
    reader.await.expect("it does not panic").expect("it only takes long");
}

/// A file in the same file system, whose reads take their time until it may hurry.
struct Crawling {
    file: Here,
    reads: AtomicBool,
    hurries: AtomicBool,
}

#[async_trait]
impl RangeSource for Crawling {
    fn len(&self) -> u64 {
        self.file.len
    }

    fn describe(&self) -> String {
        "a file that takes its time".into()
    }

    async fn read_range(&self, range: BlobRange) -> Result<Bytes, Error> {
        self.read_here(range, Vec::new(), &|| ())
    }

    fn here(&self) -> Option<&dyn ReadHere> {
        Some(self)
    }
}

impl ReadHere for Crawling {
    fn file_system(&self) -> u64 {
        self.file.file_system()
    }

    fn read_here(&self, range: BlobRange, buffer: Vec<u8>, came: &dyn Fn()) -> Result<Bytes, Error> {
        self.reads.store(true, SeqCst);
        let crawl = || {
            if !self.hurries.load(SeqCst) {
                std::thread::sleep(Duration::from_millis(100));
            }
        };
        common::in_parts(range, crawl, came);
        self.file.read_here(range, buffer, came)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_a_file_system_here_that_is_busy_is_left_for_another_place_and_asked_first_again() {
    let (stall, minute) = (Duration::from_secs(1), Duration::from_secs(60));
    // Leave to read is waited for three stalls, or for as long as a reader waits, whichever is less.
    for deadline in [10 * minute, stall / 2] {
        // One lane, and whoever has it reads all of its blob in one request.
        let lanes = EngineConfig {
            decoders: NonZero::<usize>::MIN,
            demand_request_bytes_max: 8 << 20,
            ..no_readahead()
        };
        let engine = engine_with(EngineConfig { stall, deadline, ..lanes });
        let data = common::bytes(8 * MIB, 1);
        let file = Here { data: Some(data.clone()), len: 8 * MIB, takes: Duration::ZERO };
        let crawling =
            Arc::new(Crawling { file, reads: AtomicBool::new(false), hurries: AtomicBool::new(false) });
        let chunks = table(&data, even(8 * MIB, 64 * KIB));
        let source = Arc::clone(&crawling) as Arc<dyn RangeSource>;
        let busy = Blob::new("busy", resources(Memory::new(), 8 * MIB), chunks, source);
        let reader = tokio::spawn({
            let (engine, busy) = (Arc::clone(&engine), Arc::clone(&busy));
            async move { engine.fill(&busy, at(0, 8 * MIB), DEMAND).await }
        });
        while !crawling.reads.load(SeqCst) {
            tokio::task::yield_now().await;
        }

        let data = common::bytes(4 * MIB, 2);
        let here = Here { data: Some(data.clone()), len: 4 * MIB, takes: Duration::ZERO };
        let (rig, _lease) = here_and_elsewhere(here, &data);
        let read = async { while rig.read(&engine, 0..64 * KIB).await.is_err() {} };
        tokio::time::timeout(minute, read).await.expect("elsewhere it is well");
        assert_eq!(rig.source.bytes_served(), 64 * KIB, "after {deadline:?}");

        crawling.hurries.store(true, SeqCst);
        let _ = reader.await.expect("it does not panic");
        let all = async { while engine.fill(&busy, at(0, 8 * MIB), DEMAND).await.is_err() {} };
        tokio::time::timeout(minute, all).await.expect("it hurries");
        let read = async { while rig.read(&engine, MIB..2 * MIB).await.is_err() {} };
        tokio::time::timeout(minute, read).await.expect("nobody else reads here");
        assert_eq!(rig.source.bytes_served(), 64 * KIB, "it was only busy, and is well");
    }
}
