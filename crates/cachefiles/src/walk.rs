//! The walk that rebuilds the index from the objects, in the background.
//!
//! Every object is looked at while it is idle, and one that has a row already is left alone: whoever opened it
//! in the meantime knows better. What has no valid attribute goes: it is of another format, or was never
//! finished.

use std::collections::HashSet;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use larder_fscache::{CookieKey, VolumeKey};

use crate::coherency::{Coherency, OBJECT_ATTR, State};
use crate::index::Row;
use crate::layout::{CACHE, Part, Place, part_of, volume_dir};
use crate::storage::{Access, Kind};
use crate::store::Store;

/// How far a walk is.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    stop: AtomicBool,
    /// Number of objects found, and whether that was all.
    found: Mutex<(u64, bool)>,
    changed: Condvar,
}

impl Progress {
    /// There is nothing to walk through.
    pub fn done() -> Self {
        let progress = Self::default();
        progress.set(|found| found.1 = true);
        progress
    }

    pub fn is_done(&self) -> bool {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    /// Asks the walk to end early.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Waits until the walk has found something more, or has ended; returns whether it was under way.
    pub fn wait(&self) -> bool {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, done) = *found;
        if done {
            return false;
        }
        let more = self.changed.wait_while(found, |found| *found == (before, false));
        drop(more);
        true
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn set(&self, change: impl FnOnce(&mut (u64, bool))) {
        change(&mut self.found.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }
}

impl Store {
    /// Walks through everything. When that fails, or is stopped, the reserve stays what counts.
    pub fn walk(&self) {
        match self.walk_all() {
            Ok(true) => {
                self.ledger.all_found();
                tracing::info!(objects = self.index.totals().objects, "the index is rebuilt");
                self.walk.set(|found| found.1 = true);
            }
            Ok(false) => {}
            Err(error) => {
                tracing::error!(%error, "cachefiles_io_error: the cache cannot be walked through");
                // Nobody waits for more. The sums stay on the safe side, and the next start walks again.
                self.walk.set(|found| found.1 = true);
            }
        }
    }

    /// Returns whether it got to the end.
    fn walk_all(&self) -> io::Result<bool> {
        while !self.empty_graveyard(1024)? {
            if self.walk.is_stopped() {
                return Ok(false);
            }
        }
        for volume in self.storage.list(CACHE)? {
            let Ok(volume) = VolumeKey::new(&volume) else { continue };
            let dir = volume_dir(&volume);
            for folder in self.storage.list(&dir)? {
                if self.walk.is_stopped() {
                    return Ok(false);
                }
                let found = self.walk_folder(&volume, &format!("{dir}/{folder}"))?;
                self.walk.set(|all| all.0 += found);
            }
        }
        Ok(true)
    }

    fn walk_folder(&self, volume: &VolumeKey, dir: &str) -> io::Result<u64> {
        let names = self.storage.list(dir)?;
        let pins: HashSet<&str> = names.iter().filter_map(|name| pin_of(name)).collect();
        let mut found = 0;
        for name in &names {
            let (Part::Data(key) | Part::Map(key)) = part_of(name) else { continue };
            let Ok(cookie) = CookieKey::new(key) else { continue };
            let place = Place::new(volume, &cookie);
            if place.dir != dir {
                continue;
            }
            let object = (volume.clone(), cookie);
            let looked = self.objects.while_idle(&object, || match part_of(name) {
                Part::Data(_) if self.index.get(&object).is_none() => {
                    let row = self.look_at(&place, pins.contains(key))?;
                    if let Some(row) = row {
                        self.index.put(&object, row);
                        self.ledger.found(row.charge());
                    }
                    Ok(u64::from(row.is_some()))
                }
                Part::Map(_) if self.storage.stat(&place.data)?.is_none() => {
                    self.storage.unlink(&place.map).map(|_| 0)
                }
                _ => Ok(0),
            });
            found += looked.unwrap_or(Ok(0))?;
        }
        Ok(found)
    }

    /// The row of an idle object, from its files; none when it is no object of ours and was removed.
    pub fn look_at(&self, place: &Place, pinned: bool) -> io::Result<Option<Row>> {
        let file = match self.storage.open(&place.data, Access::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let stat = file.stat()?;
        if stat.kind != Kind::File {
            return Ok(None);
        }
        let coherency = Coherency::parse(file.attr(OBJECT_ATTR)?.as_deref());
        let Ok(coherency) = coherency.inspect_err(|why| {
            tracing::debug!(volume = %place.volume, cookie = %place.cookie, %why, "cachefiles_coherency");
        }) else {
            self.storage.unlink(&place.data)?;
            self.storage.unlink(&place.map)?;
            tracing::debug!(volume = %place.volume, cookie = %place.cookie, ino = stat.ino, why = "weird", "cachefiles_unlink");
            return Ok(None);
        };
        let map = self.storage.stat(&place.map)?.map_or(0, |stat| stat.stored);
        Ok(Some(Row {
            size: coherency.size,
            stored: stat.stored.saturating_add(map),
            used_ms: stat.used_ms,
            complete: coherency.state == State::Complete,
            pinned,
        }))
    }
}

fn pin_of(name: &str) -> Option<&str> {
    match part_of(name) {
        Part::Pin(key) => Some(key),
        Part::Data(_) | Part::Map(_) => None,
    }
}
