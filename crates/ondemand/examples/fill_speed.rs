//! How fast a blob is filled from a file of the same file system, digests included, beside what `cp` takes for the bytes.
//!
//! ```text
//! cargo run --release -p larder-ondemand --example fill_speed -- DIR [MIB] [ROUNDS]
//! ```
//!
//! `DIR` is where source, cache and copies lie; nothing is left there. The source is in the page cache for both. The
//! runs take turns, what they wrote is removed and written back before the next, and the medians are printed: one JSON
//! object a line.

#![allow(missing_docs, reason = "a program")]

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Instant,
};

use larder_cachefiles::{BootId, Cachefiles, Config, NoHolder};
use larder_fscache::{
    AuxData, Backend as _, Cache, CacheResources, CookieKey, ObjectRange, ObjectSpec, VolumeKey,
};
use larder_image::{
    ChunkTable,
    chunk::{ChunkHash, Encoding, IndexBuilder, LayerFacts},
};
use larder_ondemand::{Blob, Cause, Engine, EngineConfig};
use larder_remote::DirectorySource;

const CHUNK_BYTES: usize = 64 << 10;
const MIB: u64 = 1 << 20;

/// What is filled.
const SAMPLES: [(Encoding, ChunkHash); 3] = [
    (Encoding::Raw, ChunkHash::Sha256),
    (Encoding::Raw, ChunkHash::Blake3),
    (Encoding::Zstd, ChunkHash::Sha256),
];

#[derive(Clone, Copy, Eq, PartialEq)]
enum Way {
    /// `Engine::prefetch`.
    Prefetch,
    /// `Engine::fill` for one waiting reader.
    Demand,
}

fn main() {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().expect("usage: fill_speed DIR [MIB] [ROUNDS]"));
    let mut number = |default: u64| args.next().map_or(default, |arg| arg.parse().expect("a number"));
    let (mib, rounds) = (number(512), number(7));
    let dir = tempfile::tempdir_in(dir).expect("a directory");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    for (encoding, hash) in SAMPLES {
        let sample = Sample::make(dir.path(), encoding, hash, mib * MIB);
        let (mut copied, mut prefetched, mut filled) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            copied.push(sample.copy());
            prefetched.push(runtime.block_on(sample.fill(Way::Prefetch)));
            filled.push(runtime.block_on(sample.fill(Way::Demand)));
        }
        let cp = median(copied);
        for (way, took) in [("prefetch", median(prefetched)), ("demand", median(filled))] {
            println!(
                r#"{{"bench":"fill_speed","encoding":"{}","hash":"{hash}","way":"{way}","mib":{mib},"rounds":{rounds},"cp_seconds":{cp:.4},"fill_seconds":{took:.4},"ratio":{:.3}}}"#,
                if encoding == Encoding::Raw { "raw" } else { "zstd" },
                cp / took,
            );
        }
    }
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

struct Sample {
    dir: PathBuf,
    /// What the cache will hold.
    decoded: PathBuf,
    stored: PathBuf,
    table: Arc<ChunkTable>,
    cache: Cache<Cachefiles>,
}

impl Sample {
    fn make(dir: &Path, encoding: Encoding, hash: ChunkHash, len: u64) -> Self {
        let dir = dir.join(format!("{encoding:?}-{hash}"));
        std::fs::create_dir(&dir).expect("a directory");
        let data = data(len);
        let (decoded, stored) = (dir.join("decoded"), dir.join("stored"));
        std::fs::write(&decoded, &data).expect("room");
        let (bytes, index) = store(&data, encoding, hash);
        std::fs::write(&stored, &bytes).expect("room");
        let blob = format!("sha256:{}", "00".repeat(32)).parse().expect("a digest");
        let facts = LayerFacts { blob: &blob, encoding, data_end: bytes.len() as u64 };
        let table = Arc::new(ChunkTable::bind(index, facts).expect("the index fits"));
        let boot_id = BootId::of_this_machine().expect("this machine has booted");
        let config = Config::new(dir.join("cache"), boot_id, Arc::new(NoHolder));
        let cache = Cache::new(Cachefiles::open(config).expect("the directory will do"));
        Self { dir, decoded, stored, table, cache }
    }

    /// Seconds that `cp` takes for the decoded bytes.
    fn copy(&self) -> f64 {
        settle();
        let copy = self.dir.join("copy");
        let began = Instant::now();
        let status = Command::new("cp")
            .args(["--reflink=never".as_ref(), self.decoded.as_path(), copy.as_path()])
            .status();
        let took = began.elapsed().as_secs_f64();
        assert!(status.expect("cp runs").success());
        std::fs::remove_file(&copy).expect("it was just made");
        took
    }

    /// Seconds that a fill of the whole blob takes, the opening of source and cookie included.
    async fn fill(&self, way: Way) -> f64 {
        settle();
        let (volume, key) = (VolumeKey::new("bench").expect("a key"), CookieKey::new("blob").expect("a key"));
        let engine = Engine::new(tokio::runtime::Handle::current(), EngineConfig::default());
        let began = Instant::now();
        let resources = self.resources(&volume, &key);
        let source = Arc::new(DirectorySource::open(&self.stored).expect("it was just written"));
        let blob = Blob::new("blob", resources, Arc::clone(&self.table), source);
        let all = ObjectRange::at(0, blob.size());
        match way {
            Way::Prefetch => engine.prefetch(&blob, all).await.expect("the bytes are good"),
            Way::Demand => {
                engine.fill(&blob, all, Cause::Demand { pid: None }).await.expect("the bytes are good")
            }
        }
        let took = began.elapsed().as_secs_f64();
        assert!(blob.is_complete());
        engine.withdraw(&blob).await;
        drop((blob, engine));
        self.cache.backend().remove(&volume, &key).expect("nobody uses it");
        took
    }

    fn resources(&self, volume: &VolumeKey, key: &CookieKey) -> CacheResources {
        let volume = self.cache.acquire_volume(volume, &AuxData::default()).expect("room");
        volume.open(key, &ObjectSpec::of_size(self.table.decoded_size())).expect("room")
    }
}

/// Nothing of the run before is still being written.
fn settle() {
    assert!(Command::new("sync").status().expect("sync runs").success());
}

/// Half of it repeats, so that zstd has something to do.
fn data(len: u64) -> Vec<u8> {
    let mut data = vec![0; usize::try_from(len).expect("memory")];
    let mut random = fastrand::Rng::with_seed(5);
    for (n, piece) in data.chunks_mut(512).enumerate() {
        if n % 2 == 0 { random.fill(piece) } else { piece.fill(u8::try_from(n % 251).expect("under 251")) }
    }
    data
}

fn store(data: &[u8], encoding: Encoding, hash: ChunkHash) -> (Vec<u8>, larder_image::ChunkIndex) {
    let (mut stored, mut builder, mut at) = (Vec::new(), IndexBuilder::with_hash(encoding, hash), 0);
    for chunk in data.chunks(CHUNK_BYTES) {
        let frame = match encoding {
            Encoding::Raw => chunk.to_vec(),
            Encoding::Zstd => zstd::bulk::compress(chunk, 3).expect("memory"),
        };
        builder.push(stored.len() as u64, at, hash.digest(&frame).as_ref());
        stored.extend_from_slice(&frame);
        at += chunk.len() as u64;
    }
    (stored, builder.finish(at).expect("the chunks ascend"))
}
