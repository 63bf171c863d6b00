//! [`Worker`]: an image on disk, a cache, and a source that obeys; what the programs `it` and `worker_killed` share.

use std::fs;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use larder_cachefiles::{BootId, Cachefiles, Config, DescriptorHolder};
use larder_erofs::DeviceTag;
use larder_erofs::writer::{Options, Tree, write_data};
use larder_fscache::{AuxData, Cache, ObjectSpec, VolumeKey};
use larder_image::ChunkTable;
use larder_image::chunk::{Encoding, IndexBuilder, LayerFacts};
use larder_mount::keeper::Holder;
use larder_mount::{FrontEndKind, Identity, MountSpec, probe};
use larder_ondemand::{Blob, Engine, EngineConfig};
use larder_remote::{BlobRange, Error, RangeSource};
use sha2::{Digest as _, Sha256};

/// Bytes of a transport chunk.
pub const CHUNK: usize = 64 << 10;

/// An image as two files: `metadata` and `blob`.
pub fn build(tree: Tree, dir: &Path) {
    let mut blob = Vec::new();
    let data = write_data(tree, &Options::default(), &mut blob).expect("the tree can be written");
    let mut metadata = Vec::new();
    let tags = vec![DeviceTag::EMPTY; data.devices().len()];
    data.write_metadata(&tags, &mut metadata).expect("the metadata can be written");
    fs::write(dir.join("metadata"), metadata).expect("disk");
    fs::write(dir.join("blob"), blob).expect("disk");
}

/// Bytes that differ from place to place and from seed to seed.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut data = Vec::with_capacity(len + 8);
    while data.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        data.extend(state.to_le_bytes());
    }
    data.truncate(len);
    data
}

/// A raw chunk table of `data`.
pub fn table(data: &[u8]) -> Arc<ChunkTable> {
    let mut builder = IndexBuilder::new(Encoding::Raw);
    let mut at = 0;
    for chunk in data.chunks(CHUNK) {
        builder.push(at, at, &Sha256::digest(chunk));
        at += chunk.len() as u64;
    }
    let index = builder.finish(at).expect("the chunks ascend");
    let blob = format!("sha256:{}", "00".repeat(32)).parse().expect("a digest");
    let facts = LayerFacts { blob: &blob, encoding: Encoding::Raw, data_end: at };
    Arc::new(ChunkTable::bind(index, facts).expect("the index fits"))
}

/// The far side: the blob in memory, with switches.
pub struct Source {
    data: Vec<u8>,
    /// While true a bit of every answer is wrong.
    pub lies: AtomicBool,
    pub bytes: AtomicU64,
    /// How long a request takes.
    pub latency: Mutex<Duration>,
}

impl Source {
    pub fn new(data: Vec<u8>) -> Arc<Self> {
        Arc::new(Self {
            data,
            lies: AtomicBool::new(false),
            bytes: AtomicU64::new(0),
            latency: Mutex::new(Duration::ZERO),
        })
    }
}

#[async_trait]
impl RangeSource for Source {
    fn len(&self) -> u64 {
        self.data.len() as u64
    }

    fn describe(&self) -> String {
        "the test's source".to_owned()
    }

    async fn read_range(&self, range: BlobRange) -> Result<Bytes, Error> {
        self.bytes.fetch_add(range.end() - range.start(), Ordering::Relaxed);
        let latency = *self.latency.lock().unwrap();
        tokio::time::sleep(latency).await;
        let at = |n| usize::try_from(n).expect("fits");
        let mut bytes = self.data[at(range.start())..at(range.end())].to_vec();
        if self.lies.load(Ordering::Relaxed) {
            bytes.iter_mut().step_by(4096).for_each(|byte| *byte ^= 1);
        }
        Ok(bytes.into())
    }
}

/// Gives the cache the keeper's client.
struct Kept(Arc<dyn Holder>);

impl DescriptorHolder for Kept {
    fn keep(&self, name: &str, fd: BorrowedFd<'_>) -> std::io::Result<()> {
        self.0.keep(name, fd)
    }

    fn take(&self, name: &str) -> std::io::Result<Option<OwnedFd>> {
        self.0.take(name)
    }

    fn release(&self, name: &str) {
        self.0.release(name);
    }

    fn names(&self) -> Vec<String> {
        self.0.names()
    }
}

/// A worker without the program around it.
pub struct Worker {
    pub runtime: tokio::runtime::Runtime,
    pub engine: Arc<Engine>,
    pub holder: Arc<dyn Holder>,
    pub source: Arc<Source>,
    pub blob: Arc<Blob>,
    pub spec: MountSpec,
}

impl Worker {
    /// Opens the image and the cache in `dir`, with an engine after `config`; the mount point is `dir/mnt`.
    pub fn with_engine(dir: &Path, holder: Arc<dyn Holder>, config: EngineConfig) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let engine = Engine::new(runtime.handle().clone(), config);
        let data = fs::read(dir.join("blob")).unwrap();
        let table = table(&data);
        let backend = Cachefiles::open(Config::new(
            dir.join("cache"),
            BootId::of_this_machine().unwrap(),
            Arc::new(Kept(Arc::clone(&holder))),
        ));
        let cache = Cache::new(backend.unwrap());
        let volume = VolumeKey::new("v").unwrap();
        let volume = cache.acquire_volume(&volume, &AuxData::default()).unwrap();
        let resources = volume.open(table.identity(), &ObjectSpec::of_size(table.decoded_size())).unwrap();
        let source = Source::new(data);
        let blob = Blob::new("blob", resources, table, Arc::clone(&source) as Arc<dyn RangeSource>);
        let target = dir.join("mnt");
        let _ = fs::create_dir(&target);
        let spec = MountSpec {
            identity: Identity::default(),
            id: "m1".to_owned(),
            target,
            metadata: dir.join("metadata"),
            metadata_blob: None,
            devices: vec![Arc::clone(&blob)],
            whole_files: false,
            source_name: "image".to_owned(),
        };
        Self { runtime, engine, holder, source, blob, spec }
    }

    /// Lets the metadata be brought on demand, too; returns its blob, and who has it.
    pub fn bring_metadata(&mut self, dir: &Path) -> (Arc<Blob>, Arc<Source>) {
        let data = fs::read(dir.join("metadata")).expect("it was built");
        let table = table(&data);
        let volume = self.blob.cookie().volume();
        let spec = ObjectSpec::of_size(table.decoded_size());
        let resources = volume.open(table.identity(), &spec).expect("the cache has room");
        let source = Source::new(data);
        let blob = Blob::new("metadata", resources, table, Arc::clone(&source) as Arc<dyn RangeSource>);
        self.spec.metadata = blob.resources().object().path().expect("the cache has files").to_owned();
        self.spec.metadata_blob = Some(Arc::clone(&blob));
        (blob, source)
    }
}

/// A directory on a disk: in cargo's own, or where `LARDER_SCRATCH` says.
pub fn scratch() -> tempfile::TempDir {
    let place = std::env::var_os("LARDER_SCRATCH").unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into());
    tempfile::tempdir_in(place).expect("a directory can be made")
}

/// Why a front end cannot be tested here; prints it.
pub fn cannot(kind: FrontEndKind, dir: &Path) -> bool {
    let begun = std::time::Instant::now();
    loop {
        let outcome = probe(dir).into_iter().find(|probe| probe.kind == kind).map(|probe| probe.outcome);
        match outcome {
            Some(Ok(())) => return false,
            // The processes of the test before are still ending.
            Some(Err(why))
                if why.reason.contains("only one") && begun.elapsed() < Duration::from_secs(10) =>
            {
                std::thread::sleep(Duration::from_millis(20));
            }
            other => {
                println!("skipped: {kind} does not work here: {other:?}");
                return true;
            }
        }
    }
}

/// Detaches a mount point when a test ends, however it ends.
pub struct Unmount(pub PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

/// Writes back and forgets every page of files that can be forgotten.
pub fn drop_caches() {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").expect("root");
}
