//! A blob on a simulated link, for tests on paused time: what the programs `it` and `trace` share.

use std::{
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use larder_fscache::{
    AuxData, Backend, Cache, CacheResources, CookieKey, IoSource, ObjectRange, ObjectSpec, OnHole, ReadFlags,
    VolumeKey, memory::Memory,
};
use larder_image::{
    ChunkTable,
    chunk::{Encoding, IndexBuilder, LayerFacts},
};
use larder_ondemand::{Blob, Cause, Engine, EngineConfig};
use larder_remote::{BlobRange, Error, RangeSource};
use sha2::{Digest as _, Sha256};
use tokio::{
    runtime::Handle,
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
pub const DEMAND: Cause = Cause::Demand { pid: Some(1) };

/// A link that all sources of a test may share.
pub struct Link {
    latency: Duration,
    bytes_per_second: u64,
    free_at: Mutex<Option<Instant>>,
}

impl Link {
    pub fn new(latency: Duration, bytes_per_second: u64) -> Arc<Self> {
        Arc::new(Self { latency, bytes_per_second, free_at: Mutex::new(None) })
    }

    /// 20 ms, 200 Mbit/s: what the figures in the README are measured on.
    pub fn usual() -> Arc<Self> {
        Self::new(Duration::from_millis(20), 25_000_000)
    }

    async fn carry(&self, bytes: u64) {
        let arrives = {
            let mut free_at = self.free_at.lock().expect("no test panics here");
            let begins = free_at.unwrap_or_else(Instant::now).max(Instant::now());
            let arrives = begins + Duration::from_nanos(bytes * 1_000_000_000 / self.bytes_per_second);
            *free_at = Some(arrives);
            arrives
        };
        sleep_until(arrives).await;
    }
}

/// A source that counts how often it sent each byte, and misbehaves when told to.
pub struct Source {
    data: Bytes,
    link: Arc<Link>,
    /// How often each byte was sent.
    pub served: Mutex<Vec<u8>>,
    pub requests: AtomicU64,
    /// So many requests from now fail.
    pub failures: AtomicU32,
    /// So many requests from now have this byte flipped, where they hold it.
    pub flips: AtomicU32,
    pub flipped_byte: AtomicU64,
    /// Requests begin only while this is true.
    pub open: watch::Sender<bool>,
    /// Whether bytes are handed over as they come, or a request's all at once.
    pub streams: AtomicBool,
}

impl Source {
    /// A well-behaved one.
    pub fn of(data: &Bytes, link: &Arc<Link>) -> Arc<Self> {
        Arc::new(Self {
            data: data.clone(),
            link: Arc::clone(link),
            served: Mutex::new(vec![0; data.len()]),
            requests: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            flips: AtomicU32::new(0),
            flipped_byte: AtomicU64::new(0),
            open: watch::Sender::new(true),
            streams: AtomicBool::new(true),
        })
    }

    fn spend(count: &AtomicU32) -> bool {
        count.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok()
    }
}

pub fn index(range: Range<u64>) -> Range<usize> {
    let at = |n: u64| usize::try_from(n).expect("fits");
    at(range.start)..at(range.end)
}

#[async_trait]
impl RangeSource for Source {
    fn len(&self) -> u64 {
        self.data.len() as u64
    }

    fn describe(&self) -> String {
        "simulated blob".into()
    }

    async fn read_range(&self, range: BlobRange) -> Result<Bytes, Error> {
        let mut all = Vec::new();
        self.read_stream(range, &mut |bytes| all.extend_from_slice(&bytes)).await?;
        Ok(all.into())
    }

    async fn read_stream(&self, range: BlobRange, sink: &mut (dyn FnMut(Bytes) + Send)) -> Result<(), Error> {
        self.requests.fetch_add(1, SeqCst);
        let flips = Self::spend(&self.flips);
        let fails = Self::spend(&self.failures);
        let _ = self.open.subscribe().wait_for(|open| *open).await;
        sleep(self.link.latency).await;
        if fails {
            return Err(Error::Status {
                place: self.describe(),
                range: range.to_string(),
                status: 503,
                retry_after: None,
            });
        }
        let streams = self.streams.load(SeqCst);
        let mut held = Vec::new();
        let mut at = range.start();
        while at < range.end() {
            let end = (at + 16 * KIB).min(range.end());
            self.link.carry(end - at).await;
            let mut frame = self.data[index(at..end)].to_vec();
            let flipped = self.flipped_byte.load(SeqCst);
            if flips && (at..end).contains(&flipped) {
                frame[index(0..flipped - at).end] ^= 1;
            }
            for count in &mut self.served.lock().expect("no test panics here")[index(at..end)] {
                *count = count.saturating_add(1);
            }
            if streams {
                sink(frame.into());
            } else {
                held.extend_from_slice(&frame);
            }
            at = end;
        }
        if !streams {
            sink(held.into());
        }
        Ok(())
    }
}

/// Bytes that tell where they are from.
pub fn bytes(len: u64, seed: u64) -> Bytes {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut data = vec![0; index(0..len).end];
    random.fill(&mut data);
    data.into()
}

/// A raw chunk table of `data` in chunks that end at `ends`.
pub fn table(data: &Bytes, ends: impl IntoIterator<Item = u64>) -> Arc<ChunkTable> {
    let mut builder = IndexBuilder::new(Encoding::Raw);
    let mut at = 0;
    for end in ends {
        builder.push(at, at, &Sha256::digest(&data[index(at..end)]));
        at = end;
    }
    let index = builder.finish(at).expect("the chunks ascend");
    let blob = format!("sha256:{}", "00".repeat(32)).parse().expect("a digest");
    let facts = LayerFacts { blob: &blob, encoding: Encoding::Raw, data_end: at };
    Arc::new(ChunkTable::bind(index, facts).expect("the index fits"))
}

pub fn even(len: u64, chunk: u64) -> impl Iterator<Item = u64> {
    (1..=len.div_ceil(chunk)).map(move |n| (n * chunk).min(len))
}

/// A blob, what it should hold, and where it comes from.
pub struct Fixture {
    pub data: Bytes,
    pub source: Arc<Source>,
    pub blob: Arc<Blob>,
}

impl Fixture {
    /// `len` bytes in chunks of `chunk`.
    pub fn new(len: u64, chunk: u64, link: &Arc<Link>) -> Self {
        Self::with_chunks(bytes(len, len), even(len, chunk), link)
    }

    pub fn with_chunks(data: Bytes, ends: impl IntoIterator<Item = u64>, link: &Arc<Link>) -> Self {
        Self::on(Memory::new(), data, ends, link)
    }

    pub fn on(
        backend: impl Backend,
        data: Bytes,
        ends: impl IntoIterator<Item = u64>,
        link: &Arc<Link>,
    ) -> Self {
        let table = table(&data, ends);
        let source = Source::of(&data, link);
        let cookie = resources(backend, data.len() as u64);
        let blob = Blob::new("blob", cookie, table, Arc::clone(&source) as Arc<dyn RangeSource>);
        Self { data, source, blob }
    }

    /// Reads as a front end does: decide, fill, decide again.
    pub async fn read(
        &self,
        engine: &Arc<Engine>,
        want: Range<u64>,
    ) -> Result<(), larder_ondemand::FillError> {
        let range = ObjectRange::new(want.start, want.end).expect("ascending");
        let decision = self.blob.resources().prepare_ondemand_read(range, u64::MAX, ReadFlags::empty());
        let decision = decision.expect("asking cannot fail");
        if decision.source == IoSource::ReadFromCache && decision.range == range {
            engine.touch(&self.blob, range);
        } else {
            engine.fill(&self.blob, range, DEMAND).await?;
        }
        self.assert_present(want);
        Ok(())
    }

    /// `want` is present and right.
    pub fn assert_present(&self, want: Range<u64>) {
        let want = index(want);
        let mut got = vec![0; want.len()];
        self.blob.resources().read(want.start as u64, &mut got, OnHole::Fail).expect("the bytes are present");
        assert!(got == self.data[want.clone()], "wrong bytes at {want:?}");
    }
}

pub fn resources(backend: impl Backend, size: u64) -> CacheResources {
    let volume = VolumeKey::new("volume").expect("a key");
    let key = CookieKey::new("cookie").expect("a key");
    let volume = Cache::new(backend).acquire_volume(&volume, &AuxData::default()).expect("the backend works");
    volume.open(&key, &ObjectSpec::of_size(size)).expect("the backend works")
}

pub fn engine_with(config: EngineConfig) -> Arc<Engine> {
    Engine::new(Handle::current(), config)
}

/// A configuration without readahead, where a test counts requests.
pub fn no_readahead() -> EngineConfig {
    EngineConfig { readahead_bytes_max: 0, ..EngineConfig::default() }
}
