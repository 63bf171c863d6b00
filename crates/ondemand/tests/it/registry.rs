//! The whole way: a registry over HTTP, zstd chunks, the engine on real threads, the cache on disk.

use std::{
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use bytes::Bytes;
use larder_cachefiles::{BootId, Cachefiles, Config, NoHolder};
use larder_fscache::OnHole;
use larder_image::{
    ChunkTable,
    chunk::{Encoding, IndexBuilder, LayerFacts},
};
use larder_ondemand::{Blob, Engine, EngineConfig, FillError};
use larder_remote::{HttpClient, Policy};
use larder_testkit::{Content, Fault, Registry};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Runtime;

use crate::common::{DEMAND, KIB, MIB, at, bytes, resources};

struct Fixture {
    data: Bytes,
    registry: Registry,
    digest: String,
    blob: Arc<Blob>,
    engine: Arc<Engine>,
    runtime: Runtime,
    _dir: tempfile::TempDir,
}

impl Fixture {
    /// `len` bytes in chunks of 64 KiB, each a zstd frame that hardly shrinks.
    fn new(len: u64) -> Self {
        let data = bytes(len, 3);
        let (stored, index) = compress(&data);
        let mut content = Content::default();
        let digest = content.add_blob(stored.clone());
        let registry = Registry::start(content);
        let stored_len = stored.len() as u64;
        let blob_digest = digest.parse().expect("a digest");
        let facts = LayerFacts { blob: &blob_digest, encoding: Encoding::Zstd, data_end: stored_len };
        let table = Arc::new(ChunkTable::bind(index, facts).expect("the index fits"));

        let dir = tempfile::tempdir().expect("a directory");
        let boot_id = BootId::of_this_machine().expect("this machine has booted");
        let config = Config::new(dir.path().to_owned(), boot_id, Arc::new(NoHolder));
        let resources = resources(Cachefiles::open(config).expect("the directory will do"), len);

        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let _entered = runtime.enter();
        let policy = Policy { attempts: 1, ..Policy::default() };
        let client = HttpClient::new(policy).expect("a client");
        let place = larder_remote::Registry::new(client, &registry.host(), "image").expect("an address");
        let source = place.blob(&blob_digest, stored_len);
        let blob = Blob::new("blob", resources, table, source);
        let engine = Engine::new(
            runtime.handle().clone(),
            EngineConfig { around_bytes: 0, ..EngineConfig::default() },
        );
        Self { data, registry, digest, blob, engine, runtime, _dir: dir }
    }

    fn fill(&self, start: u64, len: u64) -> Result<(), FillError> {
        self.runtime.block_on(self.engine.fill(&self.blob, at(start, len), DEMAND))
    }

    fn assert_present(&self, start: u64, len: u64) {
        let mut got = vec![0; usize::try_from(len).expect("small")];
        self.blob.resources().read(start, &mut got, OnHole::Fail).expect("present");
        let from = usize::try_from(start).expect("small");
        assert!(got == self.data[from..from + got.len()], "wrong bytes at {start}");
    }
}

fn compress(data: &[u8]) -> (Vec<u8>, larder_image::ChunkIndex) {
    let (mut stored, mut builder, mut at) = (Vec::new(), IndexBuilder::new(Encoding::Zstd), 0);
    for chunk in data.chunks(64 << 10) {
        let frame = zstd::encode_all(chunk, 1).expect("memory");
        builder.push(stored.len() as u64, at, &Sha256::digest(&frame));
        stored.extend_from_slice(&frame);
        at += chunk.len() as u64;
    }
    (stored, builder.finish(at).expect("the chunks ascend"))
}

#[test]
fn p2_sixty_four_readers_on_one_cold_range_and_the_registry_sees_each_byte_once() {
    let fixture = Fixture::new(8 * MIB);
    fixture.registry.set_latency(Duration::from_millis(10));
    let (done, results) = mpsc::channel();
    for _ in 0..64 {
        let done = done.clone();
        fixture.engine.spawn_fill(&fixture.blob, at(MIB + 77, 2 * MIB), DEMAND, move |result| {
            done.send(result).expect("the test waits");
        });
    }
    drop(done);
    let results: Vec<_> = results.into_iter().collect();
    assert_eq!(results.len(), 64);
    for result in results {
        result.expect("every reader is served");
    }
    fixture.assert_present(MIB + 77, 2 * MIB);
    assert_eq!(fixture.registry.max_times_served(&fixture.digest), 1);
}

#[test]
fn p1_a_registry_that_flips_a_bit_gets_nothing_into_the_cache_and_the_next_read_succeeds() {
    let fixture = Fixture::new(MIB);
    let offset = fixture.blob.table().chunk(3).stored.start() + 1000;
    fixture.registry.fail(Fault::FlipBit { blob: fixture.digest.clone(), offset });
    let error = fixture.fill(192 * KIB, 4 * KIB).expect_err("twice the wrong bytes");
    assert!(matches!(error, FillError::Content { chunk: 3, .. }), "{error:?}");
    assert_eq!(error.errno(), 5);
    assert_eq!(fixture.blob.resources().present_bytes(), 0);

    fixture.registry.clear_faults();
    fixture.fill(192 * KIB, 4 * KIB).expect("the registry is honest again");
    fixture.assert_present(192 * KIB, 64 * KIB);
}

#[test]
fn p3_an_error_of_the_registry_does_not_outlive_it() {
    let fixture = Fixture::new(MIB);
    for fault in [Fault::Status(404), Fault::Status(500), Fault::Hangup, Fault::IgnoreRange] {
        fixture.registry.fail(fault.clone());
        let error = fixture.fill(0, 4 * KIB).expect_err("the registry fails");
        assert!(matches!(error, FillError::Fetch { .. }), "{fault:?}: {error:?}");
        assert_eq!(error.errno(), 5);
        fixture.registry.clear_faults();
    }
    fixture.fill(0, 4 * KIB).expect("the registry is well again");
    fixture.assert_present(0, 4 * KIB);
}

/// A measurement, not a test: `cargo test -p larder-ondemand --release --test it registry:: -- --ignored --nocapture`.
#[test]
#[ignore = "measures time"]
fn measure_a_cold_sequential_read() {
    const LEN: u64 = 64 * MIB;
    let fixture = Fixture::new(LEN);
    fixture.registry.set_latency(Duration::from_millis(20));
    fixture.registry.set_bandwidth(25_000_000);
    let began = Instant::now();
    for n in 0..LEN / (128 * KIB) {
        fixture.fill(n * 128 * KIB, 128 * KIB).expect("the registry is well");
    }
    let took = began.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "64 Mi is exact")]
    let share = LEN as f64 / 25e6 / took;
    println!("{took:.2} s, {share:.3} of the link, {} requests", fixture.blob.stats().requests);
}
