//! [`World`]: engine, cache and blobs between one opening of the cache and the next.

use std::fmt::Display;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use larder_cachefiles::{BootId, Cachefiles, Config, DescriptorHolder, Limits};
use larder_fscache::{
    AuxData, Cache, Cookie, CookieKey, Error, InUse, IoSource, ObjectRange, OnHole, ReadFlags, Volume,
    VolumeKey,
};
use larder_ondemand::{Blob, Cause, Engine, EngineConfig};
use larder_remote::{HttpClient, Policy, Registry};
use tokio::runtime::Runtime;

use super::contents::{Contents, OBJECTS, spec};
use super::shelf::Shelf;

/// How long a reader waits before it is an error.
pub const FILL_DEADLINE: Duration = Duration::from_secs(20);

/// Pages of a blob that a reader may find taken away under it before it gives up.
const READ_TRIES: usize = 3;

/// Everything that one opening of a cache has.
pub struct World {
    pub cache: Cache<Cachefiles>,
    volume: Arc<Volume>,
    engine: Arc<Engine>,
    place: Registry,
    slots: Vec<Mutex<Slot>>,
    /// Last: tasks still hold blobs.
    runtime: Option<Runtime>,
}

/// An object as the readers see it.
pub struct Slot {
    pub version: usize,
    blob: Option<Arc<Blob>>,
}

/// A blob, and which version of the truth it holds.
pub struct Opened {
    pub version: usize,
    blob: Arc<Blob>,
}

/// Why a read brought no bytes.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The name of the error number that a front end would give its reader.
    pub name: String,
    /// All that is known.
    pub text: String,
}

impl Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.name, self.text)
    }
}

/// How a read treats holes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Manner {
    /// Everything is brought, then read.
    Fill,
    /// Nothing is brought; holes are an error.
    Present,
    /// Nothing is brought; holes are zeros.
    Clear,
}

impl World {
    /// Opens the cache at `root`.
    pub fn open(
        root: &Path,
        quota: Option<u64>,
        boot_id: BootId,
        shelf: &Arc<Shelf>,
        contents: &Contents,
        versions: &[usize],
    ) -> anyhow::Result<Self> {
        let holder = Arc::clone(shelf) as Arc<dyn DescriptorHolder>;
        let limits = Limits { quota, ..Limits::default() };
        let cachefiles =
            Cachefiles::open(Config { limits, ..Config::new(root.to_owned(), boot_id, holder) })?;
        let cache = Cache::new(cachefiles);
        let volume = cache.acquire_volume(&VolumeKey::new("torture")?, &AuxData::default())?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let _entered = runtime.enter();
        let policy = Policy {
            read_timeout: Duration::from_secs(1),
            deadline: Duration::from_secs(10),
            attempts: 3,
            backoff_base: Duration::from_millis(10),
            backoff_cap: Duration::from_millis(200),
            ..Policy::default()
        };
        let place = Registry::new(HttpClient::new(policy)?, &contents.registry.host(), "torture")?;
        let config = EngineConfig { deadline: FILL_DEADLINE, records_max: 100, ..EngineConfig::default() };
        let engine = Engine::new(runtime.handle().clone(), config);
        let slots =
            versions.iter().map(|version| Mutex::new(Slot { version: *version, blob: None })).collect();
        Ok(Self { cache, volume, engine, place, slots, runtime: Some(runtime) })
    }

    /// The slot of an object.
    pub fn slot(&self, object: usize) -> MutexGuard<'_, Slot> {
        self.slots[object].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which version each object has.
    pub fn versions(&self) -> Vec<usize> {
        (0..OBJECTS).map(|object| self.slot(object).version).collect()
    }

    /// The cookie of an object.
    pub fn cookie(&self, object: usize, version: usize) -> Result<Arc<Cookie>, Error> {
        self.volume.acquire_cookie(&key(object)?, &spec(object, version))
    }

    /// The blob of an object, opened if need be.
    pub fn blob(&self, object: usize, contents: &Contents) -> Result<Opened, Failure> {
        let mut slot = self.slot(object);
        let version = slot.version;
        if let Some(blob) = slot.blob.as_ref().filter(|blob| !blob.resources().expired()) {
            return Ok(Opened { version, blob: Arc::clone(blob) });
        }
        let content = contents.of(object, version);
        let source = self.place.blob(&content.digest.parse().map_err(failure)?, content.table.decoded_size());
        let in_use: InUse =
            self.cookie(object, version).and_then(|cookie| cookie.use_cookie()).map_err(fs_failure)?;
        let resources = in_use.begin_write_operation().map_err(fs_failure)?;
        let blob = Blob::new(format!("{object}.{version}"), resources, Arc::clone(&content.table), source);
        slot.blob = Some(Arc::clone(&blob));
        Ok(Opened { version, blob })
    }

    /// Reads a piece as a front end does: decides, fills, decides again, reads; begins again where the object was taken
    /// away meanwhile.
    pub fn read(&self, opened: &Opened, want: ObjectRange, manner: Manner) -> Result<Vec<u8>, Failure> {
        let resources = opened.blob.resources();
        let on_hole = if manner == Manner::Clear { OnHole::Clear } else { OnHole::Fail };
        let mut bytes = vec![0; usize::try_from(want.len()).map_err(failure)?];
        let mut failed = failure("never tried");
        for _ in 0..READ_TRIES {
            if manner == Manner::Fill && !self.is_present(opened, want)? {
                let fill = self.engine.fill(&opened.blob, want, Cause::Demand { pid: None });
                self.engine
                    .handle()
                    .block_on(fill)
                    .map_err(|error| Failure { name: errno(error.errno()), text: error.chain() })?;
            }
            match resources.read(want.start(), &mut bytes, on_hole) {
                Ok(len) => {
                    bytes.truncate(len);
                    return Ok(bytes);
                }
                // Culled, or lost by a failed sync, between the fill and the read: what a front end does again.
                Err(Error::Hole { .. }) if manner == Manner::Fill => {
                    failed = failure("taken away again and again")
                }
                Err(error) => return Err(fs_failure(error)),
            }
        }
        Err(failed)
    }

    fn is_present(&self, opened: &Opened, want: ObjectRange) -> Result<bool, Failure> {
        let decided = opened.blob.resources().prepare_ondemand_read(want, u64::MAX, ReadFlags::empty());
        let decision = decided.map_err(fs_failure)?;
        if decision.source == IoSource::ReadFromCache && decision.range == want {
            self.engine.touch(&opened.blob, want);
            return Ok(true);
        }
        Ok(false)
    }

    /// Brings an object at leisure.
    pub fn prefetch(&self, opened: &Opened) {
        let (engine, blob) = (Arc::clone(&self.engine), Arc::clone(&opened.blob));
        self.engine
            .handle()
            .spawn(async move { engine.prefetch(&blob, ObjectRange::at(0, blob.size())).await });
    }

    /// Makes what an object has durable.
    pub fn commit(&self, object: usize) -> Result<(), Failure> {
        let cookie = self.slot(object).blob.as_ref().map(|blob| Arc::clone(blob.cookie()));
        let opened = cookie.and_then(|cookie| cookie.object());
        opened.map_or(Ok(()), |object| object.commit().map_err(fs_failure))
    }

    /// Closes an object, so that it is idle when its last reader has gone.
    pub fn close(&self, object: usize) -> Option<Arc<Cookie>> {
        let blob = self.slot(object).blob.take()?;
        Some(Arc::clone(blob.cookie()))
    }

    /// Closes an object and gives it back, if nobody reads it.
    pub fn make_idle(&self, object: usize) {
        // In use, it stays until upkeep finds that nobody uses it.
        let _ = self.close(object).map(|cookie| cookie.relinquish(false));
    }

    /// What a daemon does every few seconds: closes what nobody uses, and lets it go.
    pub fn tidy(&self) {
        self.cache.discard_idle(Instant::now());
        self.cache.backend().relinquish_unused();
    }

    /// Keeps an object from being culled, or lets it be.
    pub fn pin(&self, object: usize, pinned: bool) -> Result<(), Error> {
        let (cache, volume, key) = (self.cache.backend(), self.volume.key(), key(object)?);
        if pinned { cache.pin(volume, &key) } else { cache.unpin(volume, &key) }.map(drop)
    }

    /// Ends everything, and waits for it.
    pub fn end(mut self) {
        (0..OBJECTS).for_each(|object| drop(self.close(object)));
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(FILL_DEADLINE);
        }
    }

    /// Waits until no chunk is being brought.
    pub fn settle(&self, deadline: Duration) -> bool {
        let began = Instant::now();
        let flying = || {
            (0..OBJECTS)
                .any(|object| self.slot(object).blob.as_ref().is_some_and(|blob| blob.flights_in_hand() > 0))
        };
        while flying() {
            if began.elapsed() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }
}

/// The key of an object.
pub fn key(object: usize) -> Result<CookieKey, Error> {
    CookieKey::new(&format!("object-{object}"))
}

fn failure(error: impl Display) -> Failure {
    Failure { name: "other".into(), text: error.to_string() }
}

/// The error as a front end sees it.
pub fn fs_failure(error: Error) -> Failure {
    Failure { name: errno(error.errno()), text: error.to_string() }
}

fn errno(number: i32) -> String {
    super::super::tally::errno_name(&std::io::Error::from_raw_os_error(number))
}
