//! The walk that rebuilds the index from the objects, in the background.
//!
//! Every object is looked at while it is idle, and one that has a row already is left alone: whoever opened it
//! in the meantime knows better. What has no valid attribute goes: it is of another format, or was never
//! finished. What cannot be read is charged with what its name says that it takes. A place where that fails, too,
//! is left for later, and the rest is walked through: the index is whole when nothing is left.

mod progress;
#[cfg(test)]
mod tests;

use std::io;

use larder_fscache::{CookieKey, VolumeKey};
use rustix::io::Errno;

use crate::coherency::{Coherency, OBJECT_ATTR, State};
use crate::index::Row;
use crate::layout::{CACHE, GRAVEYARD, Part, Place, part_of, volume_dir};
use crate::object::Name;
use crate::storage::{Access, Kind};
use crate::store::Store;

pub(crate) use progress::Progress;

/// How often one walk tries what fails.
const TRIES_MAX: usize = 2;
/// Files of the graveyard that are deleted before the walk looks whether it is to stop.
const GRAVES_A_STEP: u64 = 1024;

/// A place that is to be walked through.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Stretch {
    /// Nobody knows what it takes until it is empty.
    Graveyard,
    /// The folders of volumes, and what is in them.
    Volumes,
    /// The folders of one, and what is in them.
    Volume(VolumeKey),
    /// The files in a folder of a volume.
    Folder(VolumeKey, String),
}

impl Stretch {
    fn dir(&self) -> String {
        match self {
            Self::Graveyard => GRAVEYARD.to_owned(),
            Self::Volumes => CACHE.to_owned(),
            Self::Volume(volume) => volume_dir(volume),
            Self::Folder(_, dir) => dir.clone(),
        }
    }
}

impl Store {
    /// Walks through everything, or what an earlier walk has left. When something is left again, or the walk is stopped,
    /// the reserve stays what counts, and the index is not closed as a whole one.
    pub fn walk(&self) {
        let ending = self.walk.ending();
        let mut left = self.walk.take_left();
        for _ in 0..TRIES_MAX {
            left = self.walk_through(left);
            if self.walk.is_stopped() {
                return;
            }
        }
        if !left.is_empty() {
            return self.walk.leave(left);
        }
        self.ledger.all_found();
        self.lower_reserve();
        tracing::info!(objects = self.index.totals().objects, "the index is rebuilt");
        ending.whole();
    }

    /// Returns what could not be walked through.
    fn walk_through(&self, mut todo: Vec<Stretch>) -> Vec<Stretch> {
        let mut left = Vec::new();
        while let Some(stretch) = todo.pop().filter(|_| !self.walk.is_stopped()) {
            match self.walk_stretch(&stretch) {
                Ok(inside) => todo.extend(inside),
                Err(error) => {
                    let place = stretch.dir();
                    tracing::warn!(place, %error, what = "not walked through yet", "cachefiles_io_error");
                    left.push(stretch);
                }
            }
        }
        left
    }

    /// Returns what lies inside, or is still to be done.
    fn walk_stretch(&self, stretch: &Stretch) -> io::Result<Vec<Stretch>> {
        let dir = stretch.dir();
        Ok(match stretch {
            Stretch::Graveyard if self.empty_graveyard(GRAVES_A_STEP)? => Vec::new(),
            Stretch::Graveyard => vec![Stretch::Graveyard],
            Stretch::Volumes => {
                let volumes = self.storage.list(&dir)?;
                volumes.iter().filter_map(|name| VolumeKey::new(name).ok()).map(Stretch::Volume).collect()
            }
            Stretch::Volume(volume) => {
                let folders = self.storage.list(&dir)?;
                folders.iter().map(|name| Stretch::Folder(volume.clone(), format!("{dir}/{name}"))).collect()
            }
            Stretch::Folder(volume, _) => {
                self.walk_folder(volume, &dir)?;
                Vec::new()
            }
        })
    }

    /// Looks at every file; the first error is returned when all the others have been looked at, too.
    fn walk_folder(&self, volume: &VolumeKey, dir: &str) -> io::Result<()> {
        let (mut found, mut result) = (0, Ok(()));
        for name in &self.storage.list(dir)? {
            match self.walk_file(volume, dir, name) {
                Ok(is_new) => found += u64::from(is_new),
                Err(error) => result = result.and(Err(error)),
            }
        }
        self.walk.add(found);
        result
    }

    /// Returns whether it is an object that was not known.
    fn walk_file(&self, volume: &VolumeKey, dir: &str, name: &str) -> io::Result<bool> {
        let (Part::Data(key) | Part::Map(key)) = part_of(name) else { return Ok(false) };
        let Ok(cookie) = CookieKey::new(key) else { return Ok(false) };
        let place = Place::new(volume, &cookie);
        if place.dir != dir {
            return Ok(false);
        }
        let object = (volume.clone(), cookie);
        let looked = self.objects.while_idle(&object, || match part_of(name) {
            Part::Data(_) if self.index.get(&object).is_none() => self.find(&object, &place),
            Part::Map(_) if self.storage.stat(&place.data)?.is_none() => {
                self.storage.unlink(&place.map).map(|_| false)
            }
            _ => Ok(false),
        });
        looked.unwrap_or(Ok(false))
    }

    /// Gives an idle object that has none its row and its charge; returns whether it is an object.
    pub fn find(&self, object: &Name, place: &Place) -> io::Result<bool> {
        // Looked at only now: nobody pins it before it has its row.
        let pinned = self.storage.stat(&place.pin)?.is_some();
        let row = match self.look_at(place, pinned) {
            Err(error) if !is_of_the_moment(&error) => {
                tracing::warn!(
                    volume = %object.0, cookie = %object.1, %error, what = "an object cannot be read", "cachefiles_io_error"
                );
                self.row_of_unread(place, pinned)?
            }
            looked => looked?,
        };
        let Some(row) = row else { return Ok(false) };
        self.index.put(object, row);
        self.ledger.found(row.charge());
        Ok(true)
    }

    /// The row of an object whose files cannot be read: it takes its space all the same, and may be culled.
    fn row_of_unread(&self, place: &Place, pinned: bool) -> io::Result<Option<Row>> {
        let Some(data) = self.storage.stat(&place.data)? else { return Ok(None) };
        let map = self.storage.stat(&place.map)?;
        let stored = data.stored.saturating_add(map.map_or(0, |map| map.stored));
        Ok(Some(Row { size: data.len, stored, used_ms: data.used_ms, complete: false, pinned, seen: None }))
    }

    /// The row of an idle object, from its files; none when it is no object of ours and was removed.
    pub fn look_at(&self, place: &Place, pinned: bool) -> io::Result<Option<Row>> {
        let file = match self.storage.open(&place.data, Access::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            // A symbolic link is nothing of ours.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::LOOP) => return Ok(None),
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
            seen: self.sight(place, &stat),
        }))
    }
}

/// Whether an error says more about the process, or the machine, at this moment than about a file.
fn is_of_the_moment(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN | Errno::INTR))
}
