//! Blobs that several places have: one that is gone, hangs or lies fails nobody while another is well.

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use async_trait::async_trait;
use bytes::Bytes;
use common::{
    Fixture, KIB, Link, MIB, Source, engine, engine_with, even, idle, no_readahead, resources, table,
};
use larder_fscache::memory::Memory;
use larder_ondemand::{Blob, FillError};
use larder_remote::{BlobRange, Error, RangeSource, ReadHere};

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

/// Gives `rig` a second place.
fn mirror(rig: &Fixture) -> Arc<Source> {
    let source = Source::of(&rig.data, &Link::usual());
    rig.blob.add_source(Arc::new(Mirror(Arc::clone(&source))));
    source
}

fn rig() -> (Fixture, Arc<Source>) {
    let rig = Fixture::new(4 * MIB, 64 * KIB, &Link::usual());
    let mirror = mirror(&rig);
    (rig, mirror)
}

#[tokio::test(start_paused = true)]
async fn p3_a_place_that_is_gone_fails_nobody_while_another_has_the_blob() {
    let ((rig, mirror), engine) = (rig(), engine_with(no_readahead()));
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
    let ((rig, mirror), engine) = (rig(), engine_with(no_readahead()));
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
    let ((rig, mirror), engine) = (rig(), engine_with(no_readahead()));
    mirror.open.send_replace(false);
    rig.read(&engine, 0..MIB).await.expect("the first place has it");
    rig.read(&engine, MIB..2 * MIB).await.expect("the first place has it");
}

#[tokio::test(start_paused = true)]
async fn p2_bytes_that_a_place_lies_about_come_from_another() {
    let ((rig, mirror), engine) = (rig(), engine_with(no_readahead()));
    mirror.flips.store(u32::MAX, SeqCst);
    mirror.flipped_byte.store(100 * KIB, SeqCst);
    rig.read(&engine, 0..MIB).await.expect("the first place does not lie");
    assert_eq!(rig.source.coverage(64 * KIB..128 * KIB), (1, 1), "the one chunk was fetched there");
    assert_eq!(rig.source.bytes_served(), 64 * KIB);
}

/// A file that is here, and whose reads fail, or lie.
struct Here {
    data: Option<Bytes>,
    len: u64,
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
        self.read_here(range, Vec::new())
    }

    fn here(&self) -> Option<&dyn ReadHere> {
        Some(self)
    }
}

impl ReadHere for Here {
    fn read_here(&self, range: BlobRange, _: Vec<u8>) -> Result<Bytes, Error> {
        let at = |n: u64| usize::try_from(n).expect("fits");
        let data = self.data.as_ref().ok_or_else(|| Error::Io {
            place: self.describe(),
            source: std::io::ErrorKind::NotFound.into(),
        })?;
        Ok(data.slice(at(range.start())..at(range.end())))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_file_here_does_not_have_or_has_wrong_comes_from_elsewhere() {
    let data = common::bytes(4 * MIB, 1);
    let mut wrong = data.to_vec();
    wrong[100 << 10] ^= 1;
    wrong[3 << 20] ^= 1;
    for lies in [None, Some(Bytes::from(wrong))] {
        let engine = engine();
        let elsewhere = Source::of(&data, &Link::new(std::time::Duration::ZERO, 1 << 30));
        let chunks = table(&data, even(4 * MIB, 64 * KIB));
        let cookie = resources(Memory::new(), 4 * MIB);
        let place = Arc::clone(&elsewhere) as Arc<dyn RangeSource>;
        let blob = Blob::new("blob", cookie, chunks, place);
        let wrong_chunks = if lies.is_some() { 2 } else { 64 };
        blob.add_source(Arc::new(Here { data: lies, len: 4 * MIB }));
        let rig = Fixture { data: data.clone(), source: elsewhere, blob };
        rig.read(&engine, 0..4 * MIB).await.expect("elsewhere it is well");
        assert_eq!(rig.source.bytes_served(), wrong_chunks * 64 * KIB);
    }
}
