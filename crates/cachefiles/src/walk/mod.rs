//! The walk that rebuilds the index from the objects, in the background.
//!
//! Every object is looked at while it is idle, and one that has a row already is left alone: whoever opened it
//! in the meantime knows better. What has no valid attribute goes: it is of another format, or was never
//! finished.

use std::collections::HashSet;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

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
    found: Mutex<Found>,
    changed: Condvar,
}

/// What a walk has found.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Found {
    objects: u64,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Stage {
    #[default]
    UnderWay,
    /// It got to the end: the index has everything.
    Whole,
    /// It ended before: nobody knows what the index lacks.
    Broken,
}

impl Progress {
    /// There is nothing to walk through.
    pub fn done() -> Self {
        let progress = Self::default();
        progress.end(Stage::Whole);
        progress
    }

    /// Whether the index has everything.
    pub fn is_whole(&self) -> bool {
        self.found().stage == Stage::Whole
    }

    /// Whether a walk is still to find something.
    pub fn is_under_way(&self) -> bool {
        self.found().stage == Stage::UnderWay
    }

    /// There is no walk, though there should be one.
    pub fn give_up(&self) {
        self.end(Stage::Broken);
    }

    /// Asks the walk to end early.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Waits until the walk has found something more, or has ended; returns whether it was under way.
    pub fn wait(&self) -> bool {
        let found = self.found();
        let before = *found;
        if before.stage != Stage::UnderWay {
            return false;
        }
        drop(self.changed.wait_while(found, |found| *found == before));
        true
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    pub fn add(&self, objects: u64) {
        self.found().objects += objects;
        self.changed.notify_all();
    }

    fn end(&self, stage: Stage) {
        self.found().stage = stage;
        self.changed.notify_all();
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the progress when the walk ends, however that is: nobody must wait for a walk that is not there.
struct Ending<'a> {
    progress: &'a Progress,
    stage: Stage,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.progress.end(self.stage);
    }
}

impl Store {
    /// Walks through everything. When that fails, or is stopped, the reserve stays what counts, the index is not
    /// closed as a whole one, and the next start walks again.
    pub fn walk(&self) {
        let mut ending = Ending { progress: &self.walk, stage: Stage::Broken };
        match self.walk_all() {
            Ok(true) => {
                self.ledger.all_found();
                self.lower_reserve();
                tracing::info!(objects = self.index.totals().objects, "the index is rebuilt");
                ending.stage = Stage::Whole;
            }
            Ok(false) => {}
            Err(error) => {
                tracing::error!(%error, "cachefiles_io_error: the cache cannot be walked through");
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
                self.walk.add(found);
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
        let coherency = coherency.map_err(|why| why.to_string()).and_then(|found| {
            let differs = found.differs(place, &stat);
            differs.map_or(Ok(found), |field| Err(format!("its {field} is another")))
        });
        let Ok(coherency) = coherency.inspect_err(|why| {
            tracing::debug!(volume = %place.volume, cookie = %place.cookie, why, "cachefiles_coherency");
        }) else {
            self.storage.unlink(&place.data)?;
            self.storage.unlink(&place.map)?;
            tracing::debug!(volume = %place.volume, cookie = %place.cookie, ino = stat.ino, why = "weird", "cachefiles_unlink");
            return Ok(None);
        };
        let map = self.storage.stat(&place.map)?;
        Ok(Some(Row {
            size: coherency.size,
            stored: stat.stored.saturating_add(map.map_or(0, |map| map.stored)),
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
