//! Opening an object: from the holder, from the disk, or new.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, RwLock};

use larder_fscache::{Error, Lease};

use super::{BLOCK, CacheFile, Name, OBJECT_BYTES_MAX};
use crate::durable::{DurableMap, Owner};
use crate::layout::Place;
use crate::live::{Identity, LiveMap};
use crate::storage::{Access, Kind, Stat, Storage, StorageFile, mkdir_durably};
use crate::store::Store;

/// The mode of a data file that is being filled.
const FILLING_MODE: u32 = 0o600;

/// A backing file, and the live map that is known to describe it.
struct Backing {
    file: Box<dyn StorageFile>,
    stat: Stat,
    live: Option<LiveMap>,
}

/// Opens the object at `place`, or makes it.
pub(crate) fn open(
    store: &Arc<Store>,
    place: Place,
    size: u64,
    lease: Lease<Name, CacheFile>,
) -> Result<CacheFile, Error> {
    let failed = |doing| {
        let cookie = place.cookie.clone();
        move |source| Error::io(&cookie, doing, source)
    };
    if size > OBJECT_BYTES_MAX {
        return Err(Error::TooLarge { cookie: place.cookie.clone(), size, max: OBJECT_BYTES_MAX });
    }
    let backing = match held(store, &place, size) {
        Some(backing) => backing,
        None => on_disk(store, &place, size).map_err(failed("opening the backing file"))?,
    };
    let durable = load(store, &place, size, &backing.stat);
    let (live, words) = match durable {
        DurableMap::Complete => (None, Vec::new()),
        DurableMap::Partial(words) => {
            let live = live_map(store, &place, size, &backing.stat, backing.live, &words);
            (Some(live.map_err(failed("making the live map"))?), words)
        }
    };
    keep(store, &place.fill, Some(backing.file.as_fd()));
    keep(store, &place.live, live.as_ref().map(LiveMap::memfd));
    let present = live.as_ref().map_or(size, |live| live.presence().present_bytes());
    tracing::debug!(volume = %place.volume, cookie = %place.cookie, size, present, "cachefiles_lookup");
    Ok(CacheFile {
        path: store.root.join(&place.data),
        store: Arc::clone(store),
        place,
        size,
        identity: (backing.stat.dev, backing.stat.ino),
        file: backing.file,
        generation: AtomicU64::new(0),
        withdrawn: AtomicBool::new(false),
        sealed: AtomicBool::new(live.is_none()),
        live,
        present: AtomicU64::new(present),
        writing: RwLock::new(()),
        durable: Mutex::new(words),
        _lease: lease,
    })
}

/// What an earlier worker left with the holder, if it can be this object.
///
/// A live map counts only together with the descriptor that it was kept with. The descriptor alone is good
/// if it is the file that has the name.
fn held(store: &Store, place: &Place, size: u64) -> Option<Backing> {
    let fill = store.holder.take(&place.fill)?;
    let live = store.holder.take(&place.live);
    let file = store.storage.adopt(fill).ok()?;
    let stat = file.stat().ok().filter(|stat| is_backing(stat, size))?;
    let identity = Identity::new(store.boot_id, place.name(), size, BLOCK, &stat);
    let live = live.and_then(|fd| match LiveMap::resume(fd, &identity) {
        Ok(live) => Some(live),
        Err(why) => {
            tracing::warn!(volume = %place.volume, cookie = %place.cookie, %why, "the live map is not taken up");
            None
        }
    });
    let has_name = || matches!(store.storage.stat(&place.data), Ok(Some(found)) if same_file(&found, &stat));
    (live.is_some() || has_name()).then_some(Backing { file, stat, live })
}

/// The file on the disk, made anew when it is not what it must be.
fn on_disk(store: &Store, place: &Place, size: u64) -> io::Result<Backing> {
    let storage = &*store.storage;
    let file = match storage.stat(&place.data)? {
        Some(stat) if is_backing(&stat, size) => open_writable(storage, &place.data)?,
        Some(stat) => {
            tracing::warn!(
                volume = %place.volume, cookie = %place.cookie, expected = size, found = stat.len,
                "cachefiles_coherency: the backing file has another size and is dropped"
            );
            create(store, place, size)?
        }
        None => create(store, place, size)?,
    };
    let stat = file.stat()?;
    if !is_backing(&stat, size) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it changes while it is opened"));
    }
    Ok(Backing { file, stat, live: None })
}

/// A sealed file is read-only. Opened for writing all the same, since only its map can say that it is complete.
fn open_writable(storage: &dyn Storage, path: &str) -> io::Result<Box<dyn StorageFile>> {
    match storage.open(path, Access::ReadWrite) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
        other => return other,
    }
    storage.open(path, Access::Read)?.set_mode(FILLING_MODE)?;
    storage.open(path, Access::ReadWrite)
}

/// Makes the backing file: sparse, with its final size, durable before anything else is.
fn create(store: &Store, place: &Place, size: u64) -> io::Result<Box<dyn StorageFile>> {
    let storage = &*store.storage;
    mkdir_durably(storage, &place.volume_dir)?;
    mkdir_durably(storage, &place.dir)?;
    // A map that an earlier file left must be gone for good before a new file can have the name.
    if storage.unlink(&place.map)? {
        storage.fsync_dir(&place.dir)?;
    }
    store.put(&place.data, |file| file.set_len(size))
}

/// Loads the durable map; whatever is wrong with it means that nothing is known.
fn load(store: &Store, place: &Place, size: u64, stat: &Stat) -> DurableMap {
    let owner = Owner { name: place.name(), size, block: BLOCK, ino: stat.ino };
    let why: Box<dyn std::error::Error> = match store.get_bytes(&place.map, owner.len_max()) {
        Ok(None) => return DurableMap::holes(&owner),
        Ok(Some(bytes)) => match DurableMap::parse(&bytes, &owner) {
            Ok(map) => return map,
            Err(why) => why.into(),
        },
        Err(error) => error.into(),
    };
    tracing::warn!(
        volume = %place.volume, cookie = %place.cookie, %why,
        "cachefiles_coherency: the durable map is not taken up; everything will be fetched again"
    );
    DurableMap::holes(&owner)
}

/// The live map: the one that was held, or a new one that starts with what is durable.
fn live_map(
    store: &Store,
    place: &Place,
    size: u64,
    stat: &Stat,
    held: Option<LiveMap>,
    durable: &[u64],
) -> io::Result<LiveMap> {
    let Some(live) = held else {
        let identity = Identity::new(store.boot_id, place.name(), size, BLOCK, stat);
        return LiveMap::create(&identity, durable);
    };
    if live.is_syncing() {
        let lost = live.presence().retain(durable);
        live.set_syncing(false);
        tracing::warn!(
            volume = %place.volume, cookie = %place.cookie, lost,
            "the last worker died in a sync; what was not durable will be fetched again"
        );
    }
    Ok(live)
}

/// Hands a descriptor to the holder, or takes it away.
fn keep(store: &Store, name: &str, fd: Option<BorrowedFd<'_>>) {
    let Some(fd) = fd else { return store.holder.release(name) };
    if let Err(error) = store.holder.keep(name, fd) {
        tracing::warn!(name, %error, "a descriptor could not be handed to the keeper");
    }
}

fn is_backing(stat: &Stat, size: u64) -> bool {
    stat.kind == Kind::File && stat.len == size
}

fn same_file(one: &Stat, other: &Stat) -> bool {
    (one.dev, one.ino) == (other.dev, other.ino)
}
