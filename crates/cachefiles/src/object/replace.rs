//! Replacing an object that may be alive: invalidated, it begins anew on another file; resized, it keeps its own.

use std::io;
use std::sync::{Arc, Weak};

use larder_fscache::{CacheObject, Error};

use super::commit::another_has_the_name;
use super::open::{FILLING_MODE, check_size, create, sit_down};
use super::{BLOCK, Backing, CacheFile};
use crate::Spec;
use crate::coherency::{Coherency, InstanceId, OBJECT_ATTR, State};
use crate::index::Row;
use crate::layout::Place;
use crate::seat::Seat;
use crate::storage::{Access, StorageFile};
use crate::store::Store;

/// Withdraws who sits there, and puts a fresh, empty object in its place, durably. What the old one had open stays
/// readable to those who read the file itself, until they let go.
pub(crate) fn replace(
    store: &Arc<Store>,
    seat: &Arc<Seat>,
    place: Place,
    spec: &Spec,
) -> Result<Arc<CacheFile>, Error> {
    check_size(&place, spec.size)?;
    // Let go of only when the seat is no longer locked.
    let old;
    let mut current = seat.lock();
    old = current.upgrade();
    let orphaned = old.as_ref().map(|old| {
        old.withdraw_now();
        old.orphan()
    });
    let fresh = begin_anew(store, seat, &mut current, &place, spec, orphaned);
    drop(current);
    drop(old);
    fresh
}

/// Puts a fresh object on the seat. If the old one is `orphaned`, it answers for that charge of its own.
fn begin_anew(
    store: &Arc<Store>,
    seat: &Arc<Seat>,
    current: &mut Weak<CacheFile>,
    place: &Place,
    spec: &Spec,
    orphaned: Option<u64>,
) -> Result<Arc<CacheFile>, Error> {
    *current = Weak::new();
    let failed = |source| Error::io(&place.cookie, "replacing the object", source);
    let backing = create(store, seat, place, spec, orphaned.is_some()).map_err(|source| {
        forget(store, seat, place, orphaned);
        failed(source)
    })?;
    // Without this a power loss could bring the old file back, with a name that vouches for it.
    let named = store.make_durable(&place.dir).and_then(|()| store.storage.fsync_dir(&place.dir));
    named.map_err(|source| {
        forget(store, seat, place, None);
        failed(source)
    })?;
    tracing::trace!(volume = %place.volume, cookie = %place.cookie, why = "invalidated", "cachefiles_unlink");
    let fresh = Arc::new(sit_down(store, seat, place.clone(), backing).map_err(failed)?);
    *current = Arc::downgrade(&fresh);
    Ok(fresh)
}

/// Nothing could take the place of what was invalidated: it must not be taken up again all the same.
fn forget(store: &Store, seat: &Seat, place: &Place, orphaned: Option<u64>) {
    let name = (place.volume.clone(), place.cookie.clone());
    let gone = match orphaned {
        None => {
            store.ledger.settle(seat.take_extra(), 0);
            store.drop_object(&name, place, "invalidated").map(drop)
        }
        Some(charge) => {
            let row = store.index.remove(&name);
            let gone =
                store.storage.unlink(&place.data).and_then(|_| store.storage.unlink(&place.map)).map(drop);
            if gone.is_err() {
                // What is still there when the old object is closed is charged by itself, and can be culled.
                let row = Row { stored: charge, seen: None, ..row.unwrap_or_default() };
                store.ledger.settle(0, row.charge());
                store.index.put(&name, row);
            }
            gone
        }
    };
    if let Err(error) = gone {
        tracing::error!(
            volume = %place.volume, cookie = %place.cookie, %error,
            what = "an invalidated object cannot be removed", "cachefiles_io_error"
        );
    }
}

/// Withdraws who sits there, and puts an object of another size in its place that keeps the blocks which both
/// have whole. An object that is sealed or idle begins anew unless its file can be written.
pub(crate) fn resize(
    store: &Arc<Store>,
    seat: &Arc<Seat>,
    place: Place,
    spec: &Spec,
) -> Result<Arc<CacheFile>, Error> {
    check_size(&place, spec.size)?;
    let old;
    let mut current = seat.lock();
    old = current.upgrade();
    let Some(alive) = &old else {
        drop(current);
        return replace(store, seat, place, spec);
    };
    alive.withdraw_now();
    *current = Weak::new();
    let resized = alive.resized(spec).and_then(|(backing, kept)| {
        let object = sit_down(store, seat, place.clone(), backing)?;
        // What never sat here must not look for its seat, which is locked, when it goes.
        object.take_over(&kept).inspect_err(|_| object.withdraw_now())?;
        object.settle();
        Ok(object)
    });
    match resized {
        Ok(object) => {
            let object = Arc::new(object);
            *current = Arc::downgrade(&object);
            drop(current);
            drop(old);
            Ok(object)
        }
        Err(error) => {
            tracing::debug!(volume = %place.volume, cookie = %place.cookie, %error, "the object begins anew with its new size");
            let orphaned = Some(alive.orphan());
            let fresh = begin_anew(store, seat, &mut current, &place, spec, orphaned);
            drop(current);
            drop(old);
            fresh
        }
    }
}

impl CacheFile {
    /// Gives the file another size and another instance id, durably: nothing that vouched for its bytes does any
    /// more, before the first of them can change. Returns the words of what both sizes have whole.
    fn resized(&self, spec: &Spec) -> io::Result<(Backing, Vec<u64>)> {
        let size = spec.size;
        let whole = self.coherency.size.min(size) / BLOCK.bytes();
        let mut kept = match self.live() {
            Some(live) => live.presence().snapshot(),
            None => self.owner().all(),
        };
        keep_first(&mut kept, whole);
        let file = if self.is_sealed() {
            self.file.set_mode(FILLING_MODE)?;
            self.opened_for_writing()?
        } else {
            Arc::clone(&self.file)
        };
        let coherency = Coherency {
            state: State::Begun,
            size,
            instance: InstanceId::random()?,
            aux: spec.aux.clone().unwrap_or_default(),
            ..self.coherency.clone()
        };
        // Synced by itself: a new length may zero the end of a block that the old attribute still vouches for.
        file.set_attr(OBJECT_ATTR, &coherency.encode())?;
        file.fsync()?;
        file.set_len(size)?;
        tracing::trace!(
            volume = %self.place.volume, cookie = %self.place.cookie, from = self.size(), to = size, why = "resize",
            "cachefiles_trunc"
        );
        file.fsync()?;
        let stat = file.stat()?;
        Ok((Backing { file, stat, coherency, live: None, settled: false, seen: None }, kept))
    }

    /// What the path leads to, if that is the object's file.
    fn opened_for_writing(&self) -> io::Result<Arc<dyn StorageFile>> {
        let file = self.store.storage.open(&self.place.data, Access::ReadWrite)?;
        let stat = file.stat()?;
        if (stat.dev, stat.ino) == self.identity { Ok(file.into()) } else { Err(another_has_the_name()) }
    }

    /// Marks what an object on the same file had.
    fn take_over(&self, kept: &[u64]) -> io::Result<()> {
        let Some(live) = self.live() else { return Ok(()) };
        self.share(live)?;
        for (n, word) in (0u64..).zip(kept) {
            for bit in (0..64).filter(|bit| word >> bit & 1 == 1) {
                let at = (n * 64 + bit) * BLOCK.bytes();
                let fresh = live.presence().set(larder_fscache::ObjectRange::at(at, BLOCK.bytes()));
                self.present.fetch_add(fresh, std::sync::atomic::Ordering::AcqRel);
            }
        }
        Ok(())
    }
}

/// Clears all bits from the one with this number on.
fn keep_first(words: &mut [u64], blocks: u64) {
    for (n, word) in (0u64..).zip(words) {
        let keep = blocks.saturating_sub(n * 64);
        if keep < 64 {
            *word &= (1 << keep) - 1;
        }
    }
}
