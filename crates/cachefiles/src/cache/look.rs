//! Looking through a cache, and deciding by hand what stays: `larder cache ls|du|prune|pin|unpin|verify`.

use std::io;
use std::ops::ControlFlow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use larder_fscache::{CookieKey, Error as CacheError, ObjectRange, VolumeKey};
use redb::Durability;

use super::Cachefiles;
use crate::cull::Culled;
use crate::index::Row;
use crate::layout::{Place, folder_of};
use crate::limits::Goal;
use crate::object::{IdleObject, Name};
use crate::{Error, Limits};

/// Files of the graveyard that one step of upkeep deletes.
const GRAVES_A_STEP: u64 = 10_000;

/// An object as the index knows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ObjectInfo {
    /// The volume it belongs to.
    pub volume: VolumeKey,
    /// Its name within the volume.
    pub cookie: CookieKey,
    /// Size in bytes, holes included.
    pub size: u64,
    /// Bytes that data and map took on the disk when it was committed or let go last.
    pub stored_bytes: u64,
    /// Whether everything of it is there, and durable.
    pub complete: bool,
    /// Whether it is kept from being culled.
    pub pinned: bool,
    /// When it was acquired or let go last.
    pub last_used: SystemTime,
}

/// What a cache takes on the disk.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// Number of objects.
    pub objects: u64,
    /// Bytes that their data and maps take, as of the last time each was looked at.
    pub stored_bytes: u64,
    /// Upper bound of what objects and graveyard take now: what the quota is compared with.
    pub charged_bytes: u64,
    /// Whether objects may be missing from the two figures above: a walk is under way, or has left something that
    /// [`maintain`](Cachefiles::maintain) tries again.
    pub rebuilding: bool,
    /// The limits.
    pub limits: Limits,
}

/// What to remove. Objects that are in use or pinned stay; all conditions must hold.
#[derive(Clone, Debug, Default)]
pub struct Prune {
    /// Only objects of this volume.
    pub volume: Option<VolumeKey>,
    /// Only objects that were used before this.
    pub unused_since: Option<SystemTime>,
    /// Only as many, the least recently used first, as are needed to come down to this many bytes.
    pub until_bytes: Option<u64>,
}

impl Cachefiles {
    /// Calls `visit` with every object, sorted by volume and key. Blocks for I/O, but looks at no object.
    pub fn objects(&self, mut visit: impl FnMut(ObjectInfo) -> ControlFlow<()>) {
        self.store.index.visit(|name, row| visit(info(name, row)));
    }

    /// What is known of an object; `None` when the index has none of that name.
    pub fn object_info(&self, volume: &VolumeKey, cookie: &CookieKey) -> Option<ObjectInfo> {
        let name = (volume.clone(), cookie.clone());
        self.store.index.get(&name).map(|row| info(name, row))
    }

    /// Whether an object is alive in this process, or the keeper holds a descriptor of it.
    pub fn is_in_use(&self, volume: &VolumeKey, cookie: &CookieKey) -> bool {
        let name = (volume.clone(), cookie.clone());
        let idle = self.store.objects.while_idle(&name, || !self.store.is_held(&Place::new(volume, cookie)));
        idle != Some(true)
    }

    /// What the cache takes. No I/O.
    pub fn usage(&self) -> Usage {
        let totals = self.store.index.totals();
        Usage {
            objects: totals.objects,
            stored_bytes: totals.stored,
            charged_bytes: self.store.ledger.used(),
            rebuilding: !self.store.walk.is_whole(),
            limits: *self.store.ledger.limits(),
        }
    }

    /// Whether a walk is under way that rebuilds the index. No I/O.
    pub fn is_walking(&self) -> bool {
        self.store.walk.is_under_way()
    }

    /// Keeps an object from being culled, durably; returns whether there is one of that name.
    ///
    /// # Errors
    ///
    /// [`CacheError::Io`], [`CacheError::NoSpace`].
    pub fn pin(&self, volume: &VolumeKey, cookie: &CookieKey) -> Result<bool, CacheError> {
        self.set_pinned(volume, cookie, true)
    }

    /// Lets an object be culled again, durably; returns whether there is one of that name.
    ///
    /// # Errors
    ///
    /// [`CacheError::Io`].
    pub fn unpin(&self, volume: &VolumeKey, cookie: &CookieKey) -> Result<bool, CacheError> {
        self.set_pinned(volume, cookie, false)
    }

    fn set_pinned(&self, volume: &VolumeKey, cookie: &CookieKey, pinned: bool) -> Result<bool, CacheError> {
        let place = Place::new(volume, cookie);
        let storage = &self.store.storage;
        // The seat keeps everybody else from removing the object; whether it is alive makes no difference.
        let seat = self.seat(volume, cookie);
        let current = seat.lock();
        let set = || -> io::Result<bool> {
            if storage.stat(&place.data)?.is_none() {
                return Ok(false);
            }
            self.store.index.break_seal()?;
            let changed = match (pinned, storage.stat(&place.pin)?.is_some()) {
                (true, false) => storage.create(&place.pin).map(|_| true)?,
                (false, true) => storage.unlink(&place.pin)?,
                _ => false,
            };
            if changed {
                self.store.make_durable(&place.dir)?;
                storage.fsync_dir(folder_of(&place.pin))?;
            }
            let name = (volume.clone(), cookie.clone());
            if self.store.index.update(&name, |row| row.pinned = pinned).is_none() {
                // The walk leaves out what has a seat, and would not come back for it.
                self.store.find(&name, &place)?;
            }
            Ok(true)
        };
        let result = set().map_err(|source| CacheError::io(cookie, "pinning", source));
        drop(current);
        result
    }

    /// Opens an object that nobody uses, for reading only; `None` when there is none of that name.
    ///
    /// # Errors
    ///
    /// [`CacheError::Busy`] while it is alive or the keeper holds it; [`CacheError::Io`].
    pub fn open_idle(
        &self,
        volume: &VolumeKey,
        cookie: &CookieKey,
    ) -> Result<Option<IdleObject>, CacheError> {
        self.while_unused(volume, cookie, "opening", |_name, place| self.store.open_idle(place))
    }

    /// Takes a range, widened to whole blocks, away from an object that nobody uses; returns how many bytes were
    /// there. On return it is durable that they are not.
    ///
    /// # Errors
    ///
    /// [`CacheError::Busy`] while it is alive, the keeper holds it, or anybody has its file open, be it by an [`IdleObject`]
    /// or a mount of a worker that is dead; [`CacheError::NoSpace`], [`CacheError::Io`].
    pub fn invalidate_range(
        &self,
        volume: &VolumeKey,
        cookie: &CookieKey,
        range: ObjectRange,
    ) -> Result<u64, CacheError> {
        self.while_unused(volume, cookie, "invalidating", |name, place| {
            self.store.take_away(name, place, range, "invalidated")
        })
    }

    /// Removes what the policy says, the least recently used first. Blocks for I/O.
    ///
    /// # Errors
    ///
    /// [`Error::Walk`] when an object cannot be removed; what was removed before stays removed.
    pub fn prune(&self, policy: &Prune) -> Result<Culled, Error> {
        let mut chosen: Vec<(u64, Name)> = Vec::new();
        let before = policy.unused_since.map_or(u64::MAX, millis);
        self.store.index.visit(|name, row| {
            let inside = policy.volume.as_ref().is_none_or(|volume| *volume == name.0);
            if inside && !row.pinned && row.used_ms < before {
                chosen.push((row.used_ms, name));
            }
            ControlFlow::Continue(())
        });
        chosen.sort_unstable();
        let mut culled = Culled::default();
        for (_, name) in chosen {
            let stored = self.store.index.totals().stored;
            if policy.until_bytes.is_some_and(|until| stored <= until) {
                break;
            }
            let one = self.prune_one(&name).map_err(|source| Error::Walk {
                root: self.store.root.clone(),
                place: Place::new(&name.0, &name.1).data,
                source,
            })?;
            culled = Culled {
                objects: culled.objects + one.objects,
                files: culled.files + one.files,
                bytes: culled.bytes.saturating_add(one.bytes),
            };
        }
        Ok(culled)
    }

    fn prune_one(&self, name: &Name) -> io::Result<Culled> {
        let done = self.store.objects.while_idle(name, || {
            let place = Place::new(&name.0, &name.1);
            let pinned = self.store.index.get(name).is_none_or(|row| row.pinned);
            if pinned || self.store.is_held(&place) {
                return Ok(Culled::default());
            }
            self.store.drop_object(name, &place, "culled")
        });
        done.unwrap_or(Ok(Culled::default()))
    }

    /// Frees so many bytes and files, the least recently used objects first; returns what was freed, which is less
    /// when all that is left is in use or pinned. Blocks for I/O.
    pub fn cull(&self, bytes: u64, files: u64) -> Culled {
        self.store.cull(Goal { bytes, files })
    }

    /// One step of upkeep: culls when the limits say so, deletes some of the graveyard, puts the index on the
    /// disk, has complete objects sealed that were let go, and begins another walk if the last one could not read
    /// everything. The owner calls it every few seconds. Blocks for I/O, but not for the walk and the sealing.
    ///
    /// # Errors
    ///
    /// [`Error::Walk`] when the file system or the graveyard cannot be read; the rest is done all the same.
    pub fn maintain(&self) -> Result<Culled, Error> {
        let failed = |place: &str, source| Error::Walk {
            root: self.store.root.clone(),
            place: place.to_owned(),
            source,
        };
        if self.store.walk.begin_again() {
            self.spawn_walk();
        }
        let emptied = self.store.empty_graveyard(GRAVES_A_STEP).map_err(|source| failed("graveyard", source));
        let space = self.store.storage.statfs().map_err(|source| failed("", source));
        let culled = space.map(|space| self.store.cull(self.store.ledger.goal(&space)));
        self.store.index.fold();
        self.store.index.flush(Durability::Immediate);
        self.store.seal_what_was_let_go();
        emptied.and(culled)
    }

    /// Runs `work` on an object that is neither alive nor held.
    fn while_unused<R>(
        &self,
        volume: &VolumeKey,
        cookie: &CookieKey,
        doing: &'static str,
        work: impl FnOnce(&Name, &Place) -> io::Result<R>,
    ) -> Result<R, CacheError> {
        let worked = self.on_idle(volume, cookie, doing, |name, place| {
            if self.store.is_held(place) { Ok(None) } else { work(name, place).map(Some) }
        })?;
        worked.ok_or_else(|| CacheError::Busy { cookie: cookie.clone() })
    }
}

fn info((volume, cookie): Name, row: Row) -> ObjectInfo {
    ObjectInfo {
        volume,
        cookie,
        size: row.size,
        stored_bytes: row.stored,
        complete: row.complete,
        pinned: row.pinned,
        last_used: UNIX_EPOCH.checked_add(Duration::from_millis(row.used_ms)).unwrap_or(UNIX_EPOCH),
    }
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
