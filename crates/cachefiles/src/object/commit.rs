//! Committing: what is in the live map becomes durable.
//!
//! The order is the promise. First the bits are copied, then the data is synced, then the copy is written as
//! the durable map: it names no block whose data was not on the disk before. The first sync of a file takes its
//! attribute along, since a map without it is another file's. A complete object needs no map: its
//! attribute says *complete* once all data is synced.

use std::io;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use larder_faults::{Site, point};
use larder_fscache::{CacheObject, Error};

use super::{CacheFile, Durable};
use crate::coherency::{Coherency, OBJECT_ATTR, State};
use crate::durable;
use crate::index::Row;
use crate::live::LiveMap;

/// The mode of a sealed data file.
const SEALED_MODE: u32 = 0o444;

/// The file that has the object's name is not the one that it has open.
pub(super) fn another_has_the_name() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "somebody removed or replaced it in the cache")
}

impl CacheFile {
    pub(super) fn commit_now(&self) -> Result<(), Error> {
        let Some(_commit) = self.store.commits.begin() else {
            let source = io::Error::other("this process commits nothing any more");
            return Err(self.failed("leaving the commit to the next worker", source));
        };
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        // Another object has the name, and a map of this one would take its place.
        if self.is_withdrawn() {
            return Ok(());
        }
        if durable.inherited {
            self.confirm().map_err(|source| self.failed("syncing what an earlier worker left", source))?;
            durable.inherited = false;
        }
        let Some(live) = self.live() else { return Ok(()) };
        let snapshot = live.presence().snapshot();
        let complete = (0..).zip(&snapshot).all(|(n, word)| *word == live.presence().valid_mask(n));
        if snapshot == durable.words && !complete {
            return Ok(());
        }
        self.store
            .index
            .break_seal()
            .map_err(|source| self.failed("breaking the seal of the index", source))?;
        if !durable.attribute && !complete {
            self.mark_partial().map_err(|source| self.failed("marking the object partial", source))?;
        }
        self.sync_data(live, &durable, complete)?;
        point(Site::CachefilesSynced);
        self.check_name().map_err(|source| self.failed("checking the backing file's name", source))?;
        if complete {
            self.mark_complete().map_err(|source| self.failed("marking the object complete", source))?;
        } else {
            self.store
                .put(&self.place.map, &durable::encode(&snapshot, &self.owner()))
                .map_err(|source| self.failed("writing the durable map", source))?;
        }
        *durable = Durable { words: snapshot, attribute: true, inherited: false };
        point(Site::CachefilesCommitted);
        tracing::debug!(
            volume = %self.place.volume, cookie = %self.place.cookie, complete,
            present = self.present.load(Ordering::Relaxed), "cachefiles_commit"
        );
        if complete {
            self.seal();
        }
        let _no_writers = self.writing.write().unwrap_or_else(PoisonError::into_inner);
        self.settle();
        Ok(())
    }

    /// Syncs the data. When that fails, whatever `durable` does not name is a hole again.
    fn sync_data(&self, live: &LiveMap, durable: &Durable, complete: bool) -> Result<(), Error> {
        live.set_syncing(true);
        // A complete object's attribute is about to change, and is synced then.
        let data_only = durable.attribute || complete;
        let synced = if data_only { self.file.fdatasync() } else { self.file.fsync() };
        if let Err(source) = synced {
            let lost = {
                let _no_writers = self.writing.write().unwrap_or_else(PoisonError::into_inner);
                self.generation.fetch_add(1, Ordering::AcqRel);
                let lost = live.presence().retain(&durable.words);
                self.present.fetch_sub(lost, Ordering::AcqRel);
                lost
            };
            live.set_syncing(false);
            tracing::error!(
                volume = %self.place.volume, cookie = %self.place.cookie, lost, error = %source,
                what = "the data could not be synced; what was not durable will be fetched again", "cachefiles_io_error"
            );
            return Err(self.failed("syncing the data", source));
        }
        live.set_syncing(false);
        Ok(())
    }

    /// The last worker may have died between a step of its commit and the sync of that step. What it left is
    /// right, and read as such; a commit promises that it also lasts.
    fn confirm(&self) -> io::Result<()> {
        if self.is_sealed() {
            self.file.fsync()?;
        }
        self.store.make_names_durable(&self.place.dir)
    }

    /// A map written beside another file than ours would take the place of the map of that file.
    fn check_name(&self) -> io::Result<()> {
        match self.store.storage.stat(&self.place.data)? {
            Some(found) if (found.dev, found.ino) == self.identity => Ok(()),
            _ => Err(another_has_the_name()),
        }
    }

    /// Says in the attribute that there may be a map. The sync of the data makes it durable, before there is one.
    fn mark_partial(&self) -> io::Result<()> {
        let partial = Coherency { state: State::Partial, ..self.coherency.clone() };
        self.file.set_attr(OBJECT_ATTR, &partial.encode())
    }

    /// Says in the attribute that everything is there, and makes that durable together with the name.
    fn mark_complete(&self) -> io::Result<()> {
        let complete = Coherency { state: State::Complete, ..self.coherency.clone() };
        self.file.set_attr(OBJECT_ATTR, &complete.encode())?;
        self.file.fsync()?;
        self.store.make_durable(&self.place.dir)?;
        self.store.storage.fsync_dir(&self.place.dir)?;
        // Should the map come back after a power loss, nobody asks it.
        self.store.storage.unlink(&self.place.map).map(drop)
    }

    /// From here on nothing about the object can change. The fill descriptor stays with the holder: a mount
    /// may still have its mark on the file, and would answer a newer descriptor with a question.
    fn seal(&self) {
        point(Site::CachefilesSealing);
        if let Err(error) = self.file.set_mode(SEALED_MODE) {
            tracing::warn!(cookie = %self.place.cookie, %error, "a complete object could not be made read-only");
        }
        self.sealed.store(true, Ordering::Release);
        tracing::trace!(volume = %self.place.volume, cookie = %self.place.cookie, len = self.coherency.size, "cachefiles_seal");
        self.store.holder.release(&self.place.live);
    }

    /// The same for an object in use, from outside of a commit.
    pub(crate) fn settle_in_use(&self) {
        let _no_writers = self.writing.write().unwrap_or_else(PoisonError::into_inner);
        if !self.is_withdrawn() {
            self.settle();
        }
    }

    /// The object is let go. As long as nothing was written since it was opened, what is known of it is right.
    pub(super) fn leave(&self) {
        if self.unsettled.load(Ordering::Acquire) {
            return self.settle();
        }
        self.store.index.touch(&self.name(), self.store.now_ms());
    }

    /// Replaces the bound of what the object takes by what it takes, and tells the index. No writer may be
    /// under way, and the object must have its name. What cannot be looked at takes its bound: a row that had less
    /// would, when it goes, leave the rest charged for good.
    pub(super) fn settle(&self) {
        let found = self.file.stat().and_then(|stat| Ok((stat, self.store.storage.stat(&self.place.map)?)));
        let seen = found.as_ref().ok().and_then(|(stat, _)| self.store.sight(&self.place, stat));
        let name = self.name();
        // Nobody else changes what it says of the charge: that is for who has the object.
        let old = self.store.index.get(&name);
        let charged = old.map_or(0, |row| row.charge()).saturating_add(self.seat.take_extra());
        let looked_at = found.is_ok();
        let stored =
            found.map_or(charged, |(stat, map)| stat.stored.saturating_add(map.map_or(0, |map| map.stored)));
        let row = Row {
            size: self.size(),
            stored,
            used_ms: self.store.now_ms(),
            complete: self.is_sealed(),
            pinned: false,
            seen,
        };
        self.unsettled.store(!looked_at, Ordering::Release);
        self.store.ledger.settle(charged, row.charge());
        let known = self.store.index.update(&name, |old| *old = Row { pinned: old.pinned, ..row });
        if known.is_none() {
            self.store.index.put(&name, row);
        }
    }
}
