//! Opening an object: from the holder, from the disk, or new.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, RwLock};

use larder_fscache::Error;

use super::{BLOCK, CacheFile, Durable, OBJECT_BYTES_MAX, Orphaned, seen};
use crate::Spec;
use crate::coherency::{Coherency, InstanceId, OBJECT_ATTR, State};
use crate::durable::{self, Owner};
use crate::index::Row;
use crate::layout::Place;
use crate::limits::Goal;
use crate::live::{Identity, LiveMap};
use crate::seat::Seat;
use crate::storage::{Access, Sighting, Stat, StorageFile};
use crate::store::Store;

/// A file whose time is no older than this, in milliseconds, keeps it: each change is one of the file system's journal.
const TOUCH_MS: u64 = 3_600_000;

/// The mode of a data file that is being filled.
pub(super) const FILLING_MODE: u32 = 0o600;

/// A backing file that is known to be the object's, and the live map that is known to describe it.
pub(super) struct Backing {
    pub file: Arc<dyn StorageFile>,
    pub stat: Stat,
    pub coherency: Coherency,
    pub live: Option<LiveMap>,
    /// Whether what it takes is what the index knows of.
    pub settled: bool,
    /// How it was seen under its path; none when that is not known.
    pub seen: Option<Sighting>,
}

/// Opens the object at `place`, or makes it. The seat is locked. Unless the index was whole before there was a seat, the
/// file may have no row.
pub(crate) fn open(
    store: &Arc<Store>,
    seat: &Arc<Seat>,
    place: Place,
    spec: &Spec,
    index_was_whole: bool,
) -> Result<CacheFile, Error> {
    let failed = |doing| {
        let cookie = place.cookie.clone();
        move |source| Error::io(&cookie, doing, source)
    };
    check_size(&place, spec.size)?;
    let found = match held(store, &place, spec).map_err(failed("taking up what the keeper has"))? {
        Some(backing) => Some(backing),
        None => seen::find(store, &place, spec).map_err(failed("opening the backing file"))?,
    };
    let backing = match found {
        Some(backing) => {
            if !index_was_whole {
                charge_found(store, &place, &backing).map_err(failed("looking at the backing file"))?;
            }
            store.index.touch(&place.object(), store.now_ms());
            backing
        }
        None => create(store, seat, &place, spec, false).map_err(failed("making the backing file"))?,
    };
    sit_down(store, seat, place.clone(), backing).map_err(failed("making the live map"))
}

pub(super) fn check_size(place: &Place, size: u64) -> Result<(), Error> {
    if size > OBJECT_BYTES_MAX {
        return Err(Error::TooLarge { cookie: place.cookie.clone(), size, max: OBJECT_BYTES_MAX });
    }
    Ok(())
}

/// Makes an object of a backing file: maps, and the keeper.
pub(super) fn sit_down(
    store: &Arc<Store>,
    seat: &Arc<Seat>,
    place: Place,
    backing: Backing,
) -> io::Result<CacheFile> {
    let Backing { file, stat, coherency, live, settled, seen } = backing;
    let owner = Owner { instance: coherency.instance, size: coherency.size, block: BLOCK };
    let (live, durable) = match coherency.state {
        State::Complete => (None, Durable { words: Vec::new(), attribute: true, inherited: true }),
        State::Begun | State::Partial => {
            let begun = coherency.state == State::Begun;
            let durable = if begun { Durable::nothing(&owner) } else { load(store, &place, &owner) };
            let live = live_map(store, &place, &owner, &stat, live, &durable.words)?;
            (Some(live), durable)
        }
    };
    keep(store, &place.fill, Some(file.as_fd()));
    keep(store, &place.live, live.as_ref().and_then(LiveMap::memfd));
    // The time of the last use is a matter of the index; the file's own is for a walk, which may take it from the hour.
    if stat.used_ms.saturating_add(TOUCH_MS) <= store.now_ms() {
        seen::touch(store, &place, seen, &*file);
    }
    let present = live.as_ref().map_or(coherency.size, |live| live.presence().present_bytes());
    tracing::debug!(
        volume = %place.volume, cookie = %place.cookie, ino = stat.ino, size = coherency.size, present,
        "cachefiles_lookup"
    );
    tracing::trace!(volume = %place.volume, cookie = %place.cookie, inode = stat.ino, "cachefiles_mark_active");
    Ok(CacheFile {
        path: store.root.join(&place.data),
        store: Arc::clone(store),
        place,
        coherency,
        identity: (stat.dev, stat.ino),
        file,
        sealed: AtomicBool::new(live.is_none()),
        withdrawn: AtomicBool::new(false),
        generation: AtomicU64::new(0),
        live,
        present: AtomicU64::new(present),
        unsettled: AtomicBool::new(!settled),
        writing: RwLock::new(()),
        durable: Mutex::new(durable),
        orphaned: Orphaned::new(store),
        seat: Arc::clone(seat),
    })
}

/// What an earlier worker left with the holder, if it is this object.
///
/// A live map counts only together with the descriptor that it was kept with. The descriptor alone is good
/// if it is the file that has the name.
///
/// What cannot be looked at is an error, and no reason to open the file anew: a mount may have its mark on it, which a newer
/// descriptor would wake, and this process would wait for itself.
fn held(store: &Store, place: &Place, spec: &Spec) -> io::Result<Option<Backing>> {
    let Some(fill) = store.holder.take(&place.fill)? else { return Ok(None) };
    let live = store.holder.take(&place.live)?;
    let file: Arc<dyn StorageFile> = store.storage.adopt(fill)?.into();
    let Ok((stat, coherency)) = check(&*file, place, spec)? else { return Ok(None) };
    let owner = Owner { instance: coherency.instance, size: coherency.size, block: BLOCK };
    let identity = Identity::new(store.boot_id, place.name(), &owner, &stat);
    let live = live.and_then(|fd| match LiveMap::resume(fd, &identity) {
        Ok(live) => Some(live),
        Err(why) => {
            tracing::warn!(volume = %place.volume, cookie = %place.cookie, %why, "the live map is not taken up");
            None
        }
    });
    let is_ours = match live {
        Some(_) => true,
        None => store.storage.stat(&place.data)?.is_some_and(|found| same_file(&found, &stat)),
    };
    let settled = live.is_none();
    Ok(is_ours.then_some(Backing { file, stat, coherency, live, settled, seen: None }))
}

/// The file on the disk, if it is this object.
pub(super) fn on_disk(store: &Store, place: &Place, spec: &Spec) -> io::Result<Option<Backing>> {
    let (file, access): (Arc<dyn StorageFile>, _) =
        match open_any(|access| store.storage.open(&place.data, access)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            // What is no regular file is replaced, if it can be.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
            Ok((file, access)) => (file.into(), access),
        };
    match check(&*file, place, spec)? {
        Ok((stat, coherency)) => {
            trace_coherency(place, stat.ino, "ok");
            let file = match (coherency.state, access) {
                (State::Begun | State::Partial, Access::Read) => reopened(store, place, &*file)?,
                _ => file,
            };
            Ok(Some(Backing { file, stat, coherency, live: None, settled: true, seen: None }))
        }
        Err(why) => {
            tracing::debug!(volume = %place.volume, cookie = %place.cookie, why, "the backing file is another and is dropped");
            trace_coherency(place, file.stat()?.ino, why);
            Ok(None)
        }
    }
}

/// Whether a file is the object: its stat and attribute, or the field that differs.
pub(super) fn check(
    file: &dyn StorageFile,
    place: &Place,
    spec: &Spec,
) -> io::Result<Result<(Stat, Coherency), &'static str>> {
    let stat = file.stat()?;
    let coherency = match Coherency::parse(file.attr(OBJECT_ATTR)?.as_deref()) {
        Ok(coherency) => coherency,
        Err(_) => return Ok(Err("xattr")),
    };
    let differs = coherency.differs(place, &stat);
    Ok(match differs {
        Some(why) => Err(why),
        None if coherency.size != spec.size => Err("len"),
        None if spec.aux.as_ref().is_some_and(|aux| coherency.aux != *aux) => Err("aux"),
        None => Ok((stat, coherency)),
    })
}

pub(super) fn trace_coherency(place: &Place, ino: u64, why: &'static str) {
    tracing::trace!(volume = %place.volume, cookie = %place.cookie, ino, why, "cachefiles_coherency");
}

/// A file with fs-verity cannot be opened for writing, nor one that is getting it, and a sealed one only by root.
pub(super) fn open_any(
    open: impl Fn(Access) -> io::Result<Box<dyn StorageFile>>,
) -> io::Result<(Box<dyn StorageFile>, Access)> {
    match open(Access::ReadWrite) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::ExecutableFileBusy
            ) =>
        {
            Ok((open(Access::Read)?, Access::Read))
        }
        other => Ok((other?, Access::ReadWrite)),
    }
}

/// A partial object must be open for writing, even if a worker died between sealing it and saying so.
fn reopened(store: &Store, place: &Place, file: &dyn StorageFile) -> io::Result<Arc<dyn StorageFile>> {
    file.set_mode(FILLING_MODE)?;
    Ok(store.storage.open(&place.data, Access::ReadWrite)?.into())
}

/// An object that is on the disk is charged already, or was not known: the walk leaves out who is alive.
fn charge_found(store: &Store, place: &Place, backing: &Backing) -> io::Result<()> {
    let name = place.object();
    if store.index.get(&name).is_some() {
        return Ok(());
    }
    let map = store.storage.stat(&place.map)?;
    let row = Row {
        size: backing.coherency.size,
        stored: backing.stat.stored.saturating_add(map.map_or(0, |map| map.stored)),
        used_ms: store.now_ms(),
        complete: backing.coherency.state == State::Complete,
        pinned: store.storage.stat(&place.pin)?.is_some(),
        seen: backing.seen,
    };
    store.ledger.found(row.charge());
    store.index.put(&name, row);
    Ok(())
}

/// Makes the backing file: sparse, with its final size and its attribute. Nothing is synced: until the first
/// commit nothing vouches for any byte of it. What had the name is replaced; if it was `orphaned`, an object that
/// is still alive answers for its charge.
pub(super) fn create(
    store: &Store,
    seat: &Seat,
    place: &Place,
    spec: &Spec,
    orphaned: bool,
) -> io::Result<Backing> {
    // Whoever had the name must not be taken up again under it, however far this gets.
    store.holder.release(&place.live);
    store.holder.release(&place.fill);
    let name = place.object();
    let old = store.index.get(&name);
    let row = Row {
        size: spec.size,
        stored: 0,
        used_ms: store.now_ms(),
        complete: false,
        pinned: store.storage.stat(&place.pin)?.is_some(),
        seen: None,
    };
    let drawn = store.draw(Goal { bytes: row.charge(), files: 1 })?;
    let made = make_file(store, place, spec);
    drop(drawn);
    let backing = match made {
        Ok(made) => made,
        Err(error) => {
            store.ledger.settle(row.charge(), 0);
            return Err(error);
        }
    };
    if !orphaned {
        let charged = old.map_or(0, |row| row.charge()).saturating_add(seat.take_extra());
        store.ledger.settle(charged, 0);
    }
    store.index.put(&name, row);
    tracing::trace!(volume = %place.volume, cookie = %place.cookie, ino = backing.stat.ino, "cachefiles_link");
    Ok(backing)
}

fn make_file(store: &Store, place: &Place, spec: &Spec) -> io::Result<Backing> {
    let storage = &*store.storage;
    let coherency = Coherency {
        state: State::Begun,
        block_bits: BLOCK.bits(),
        size: spec.size,
        instance: InstanceId::random()?,
        name_hash: place.name_hash(),
        aux: spec.aux.clone().unwrap_or_default(),
    };
    store.through_tmp(|tmp| {
        let file = storage.create(tmp)?;
        tracing::trace!(volume = %place.volume, cookie = %place.cookie, "cachefiles_tmpfile");
        file.set_len(spec.size)?;
        file.set_attr(OBJECT_ATTR, &coherency.encode())?;
        let stat = file.stat()?;
        storage.mkdir(&place.volume_dir)?;
        storage.mkdir(&place.dir)?;
        storage.rename(tmp, &place.data)?;
        // An old map vouches for nothing any more; it only takes space.
        storage.unlink(&place.map)?;
        Ok(Backing { file: file.into(), stat, coherency, live: None, settled: false, seen: None })
    })
}

/// Loads the durable map; whatever is wrong with it means that nothing is known.
pub(super) fn load(store: &Store, place: &Place, owner: &Owner) -> Durable {
    let why: Box<dyn std::error::Error> = match store.get_bytes(&place.map, owner.map_len()) {
        Ok(None) => return Durable::nothing(owner),
        Ok(Some(bytes)) => match durable::parse(&bytes, owner) {
            // The attribute was synced before the map was written.
            Ok(words) => return Durable { words, attribute: true, inherited: true },
            Err(why) => why.into(),
        },
        Err(error) => error.into(),
    };
    tracing::debug!(
        volume = %place.volume, cookie = %place.cookie, %why,
        what = "the durable map is not this file's, which is taken as empty", "cachefiles_coherency"
    );
    Durable::nothing(owner)
}

/// The live map: the one that was held, or a new one, not shared yet, that starts with what is durable.
fn live_map(
    store: &Store,
    place: &Place,
    owner: &Owner,
    stat: &Stat,
    held: Option<LiveMap>,
    durable: &[u64],
) -> io::Result<LiveMap> {
    let Some(live) = held else {
        let identity = Identity::new(store.boot_id, place.name(), owner, stat);
        return LiveMap::of_durable(identity, durable);
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
pub(super) fn keep(store: &Store, name: &str, fd: Option<BorrowedFd<'_>>) {
    let Some(fd) = fd else { return store.holder.release(name) };
    if let Err(error) = store.holder.keep(name, fd) {
        tracing::warn!(name, %error, "a descriptor could not be handed to the keeper");
    }
}

fn same_file(one: &Stat, other: &Stat) -> bool {
    (one.dev, one.ino) == (other.dev, other.ino)
}
