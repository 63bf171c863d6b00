//! Committing: what is in the live map becomes durable.
//!
//! The order is the promise. First the bits are copied, then the data is synced, then the copy is written as
//! the durable map: it names no block whose data was not on the disk before.

use std::io;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use larder_fscache::Error;

use super::{BLOCK, CacheFile};
use crate::durable::{DurableMap, Owner};
use crate::live::LiveMap;

/// The mode of a sealed data file.
const SEALED_MODE: u32 = 0o444;

impl CacheFile {
    pub(super) fn commit_now(&self) -> Result<(), Error> {
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(live) = self.live() else { return Ok(()) };
        let snapshot = live.presence().snapshot();
        let complete = (0..).zip(&snapshot).all(|(n, word)| *word == live.presence().valid_mask(n));
        if snapshot == *durable && !complete {
            return Ok(());
        }
        self.sync_data(live, &durable)?;
        self.check_name().map_err(|source| self.failed("checking the backing file's name", source))?;
        let map = if complete { DurableMap::Complete } else { DurableMap::Partial(snapshot.clone()) };
        let owner = Owner { name: self.place.name(), size: self.size, block: BLOCK, ino: self.identity.1 };
        let bytes = map.encode(&owner);
        self.store
            .put_bytes(&self.place.map, &bytes)
            .map_err(|source| self.failed("writing the durable map", source))?;
        *durable = snapshot;
        tracing::debug!(
            volume = %self.place.volume, cookie = %self.place.cookie, complete,
            present = self.present.load(Ordering::Relaxed), "cachefiles_commit"
        );
        if complete {
            self.seal();
        }
        Ok(())
    }

    /// Syncs the data. When that fails, whatever `durable` does not name is a hole again.
    fn sync_data(&self, live: &LiveMap, durable: &[u64]) -> Result<(), Error> {
        live.set_syncing(true);
        let synced = self.file.fdatasync();
        if let Err(source) = synced {
            let lost = {
                let _no_writers = self.writing.write().unwrap_or_else(PoisonError::into_inner);
                self.generation.fetch_add(1, Ordering::AcqRel);
                let lost = live.presence().retain(durable);
                self.present.fetch_sub(lost, Ordering::AcqRel);
                lost
            };
            live.set_syncing(false);
            tracing::error!(
                volume = %self.place.volume, cookie = %self.place.cookie, lost, error = %source,
                "cachefiles_io_error: the data could not be synced; what was not durable will be fetched again"
            );
            return Err(self.failed("syncing the data", source));
        }
        live.set_syncing(false);
        Ok(())
    }

    /// A map written beside another file than ours would vouch for bytes that we never saw.
    fn check_name(&self) -> io::Result<()> {
        match self.store.storage.stat(&self.place.data)? {
            Some(found) if (found.dev, found.ino) == self.identity => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::NotFound, "somebody removed or replaced it in the cache")),
        }
    }

    /// From here on nothing about the object can change. The fill descriptor stays with the holder: a mount
    /// may still have its mark on the file, and would answer a newer descriptor with a question.
    fn seal(&self) {
        if let Err(error) = self.file.set_mode(SEALED_MODE) {
            tracing::warn!(cookie = %self.place.cookie, %error, "a complete object could not be made read-only");
        }
        self.sealed.store(true, Ordering::Release);
        self.store.holder.release(&self.place.live);
    }
}
