//! Volumes on the disk: a folder with coherency data of its own, and the graveyard of folders that lost theirs.
//!
//! The attribute `user.larder.volume` of the folder, little-endian: version (u8, 1), length of the coherency data
//! (u8), 0 (u16), CRC-32C of the whole with this field 0 (u32), coherency data. A folder that lies elsewhere
//! in this, or has none, moves to the graveyard whole, and is deleted at leisure.

use std::io;
use std::sync::PoisonError;

use larder_fscache::VolumeKey;

use crate::layout::{CACHE, GRAVEYARD, Part, Place, part_of, volume_dir};
use crate::storage::{AttrName, Kind};
use crate::store::Store;

const VOLUME_ATTR: AttrName = "user.larder.volume";
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 8;
/// How deep folders in the graveyard lie: the grave, volumes, the fan-out.
const DEPTH_MAX: u32 = 4;

/// The attribute for this coherency data.
fn encode(coherency: &[u8]) -> Vec<u8> {
    let len = u8::try_from(coherency.len()).expect("coherency data is bounded where it comes in");
    let mut bytes = vec![VERSION, len, 0, 0, 0, 0, 0, 0];
    bytes.extend_from_slice(coherency);
    let crc = crc32c::crc32c(&bytes).to_le_bytes();
    bytes[4..HEADER_BYTES].copy_from_slice(&crc);
    bytes
}

impl Store {
    /// Makes the volume's folder, or checks that it has this coherency data. When it has not, nobody keeps
    /// anything of what is in it.
    pub fn acquire_volume(&self, volume: &VolumeKey, coherency: &[u8]) -> io::Result<()> {
        let dir = volume_dir(volume);
        let expected = encode(coherency);
        let found = self.storage.stat(&dir)?;
        if found.is_some() {
            if self.storage.dir_attr(&dir, VOLUME_ATTR)?.as_deref() == Some(&expected[..]) {
                tracing::trace!(vol = %volume, why = "ok", "cachefiles_vol_coherency");
                return Ok(());
            }
            tracing::debug!(vol = %volume, why = "volume-weird", "cachefiles_vol_coherency");
            self.bury(volume, &dir)?;
        }
        self.through_tmp(|tmp| {
            self.storage.mkdir(tmp)?;
            self.storage.set_dir_attr(tmp, VOLUME_ATTR, &expected)?;
            self.storage.fsync_dir(tmp)?;
            self.storage.rename(tmp, &dir)
        })?;
        self.storage.fsync_dir(CACHE)
    }

    /// Moves a volume to the graveyard. Objects of it that are still alive are withdrawn.
    fn bury(&self, volume: &VolumeKey, dir: &str) -> io::Result<()> {
        for seat in self.objects.values() {
            // Let go of the object only when the seat is no longer locked.
            let object = seat.current();
            if let Some(object) = object.filter(|object| object.name().0 == *volume) {
                object.bury();
            }
        }
        self.release_all(volume, dir)?;
        self.index.break_seal()?;
        let _graves = self.graves.lock().unwrap_or_else(PoisonError::into_inner);
        let grave = self.free_grave()?;
        self.storage.rename(dir, &grave)?;
        self.storage.fsync_dir(CACHE)?;
        self.forget_durable(dir);
        self.ledger.buried(self.index.remove_volume(volume));
        tracing::debug!(vol = %volume, why = "volume-weird", to = grave, "cachefiles_rename");
        Ok(())
    }

    /// Whatever the keeper holds of the volume's objects must not come back under the same names.
    fn release_all(&self, volume: &VolumeKey, dir: &str) -> io::Result<()> {
        for folder in self.storage.list(dir)? {
            for name in self.storage.list(&format!("{dir}/{folder}"))? {
                let Part::Data(key) = part_of(&name) else { continue };
                let Ok(cookie) = larder_fscache::CookieKey::new(key) else { continue };
                let place = Place::new(volume, &cookie);
                self.holder.release(&place.live);
                self.holder.release(&place.fill);
            }
        }
        Ok(())
    }

    fn free_grave(&self) -> io::Result<String> {
        let mut n = self.now_ms();
        loop {
            let grave = format!("{GRAVEYARD}/{n:016x}");
            if self.storage.stat(&grave)?.is_none() {
                return Ok(grave);
            }
            n += 1;
        }
    }

    /// Deletes up to `files_max` files of the graveyard; returns whether it is empty now. A grave that cannot be emptied
    /// keeps none of the others.
    pub fn empty_graveyard(&self, files_max: u64) -> io::Result<bool> {
        let _graves = self.graves.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut left, mut result) = (files_max, Ok(true));
        for name in self.storage.list(GRAVEYARD)? {
            match self.delete(&format!("{GRAVEYARD}/{name}"), DEPTH_MAX, &mut left) {
                Ok(true) => {}
                Ok(false) => return result.and(Ok(false)),
                Err(error) => result = result.and(Err(error)),
            }
        }
        if result.is_ok() {
            self.ledger.decayed(None);
        }
        result
    }

    /// Deletes what has a name; returns whether it is gone.
    fn delete(&self, path: &str, depth: u32, left: &mut u64) -> io::Result<bool> {
        let Some(stat) = self.storage.stat(path)? else { return Ok(true) };
        if stat.kind != Kind::Dir {
            if *left == 0 {
                return Ok(false);
            }
            *left -= 1;
            self.storage.unlink(path)?;
            self.ledger.decayed(Some(stat.stored));
            return Ok(true);
        }
        if depth == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "folders in the graveyard lie too deep"));
        }
        for name in self.storage.list(path)? {
            if !self.delete(&format!("{path}/{name}"), depth - 1, left)? {
                return Ok(false);
            }
        }
        self.storage.rmdir(path)
    }
}
