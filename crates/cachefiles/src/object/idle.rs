//! Objects that nobody uses: looked at, and relieved of ranges.
//!
//! Whatever takes bytes away from a file does so in one order: first the map that no longer names them, synced,
//! then the hole. The other way round a power loss in between would leave a map that vouches for zeros.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use larder_faults::{Site, point};
use larder_fscache::{ObjectRange, Presence, Run};

use super::open::{FILLING_MODE, load, on_disk};
use super::{BLOCK, Name};
use crate::Spec;
use crate::coherency::{Coherency, OBJECT_ATTR, State};
use crate::durable::{self, Owner};
use crate::index::Row;
use crate::layout::Place;
use crate::storage::{Access, StorageFile, read_exact};
use crate::store::Store;

/// An object that nobody used when it was opened, for reading only. What is acquired, filled or culled in the
/// meantime does not show in its runs; the bytes of a run that is culled in the meantime read as zeros.
pub struct IdleObject {
    file: Arc<dyn StorageFile>,
    coherency: Coherency,
    words: Vec<AtomicU64>,
}

impl AsFd for IdleObject {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl IdleObject {
    /// Size in bytes, holes included.
    pub fn size(&self) -> u64 {
        self.coherency.size
    }

    /// What the client said the content is.
    pub fn aux(&self) -> &[u8] {
        &self.coherency.aux
    }

    /// Whether everything is there.
    pub fn is_complete(&self) -> bool {
        self.coherency.state == State::Complete
    }

    /// Says what is known to be on the disk from `at` on.
    pub fn probe(&self, at: u64) -> Run {
        self.presence().probe(ObjectRange::at(at, u64::MAX))
    }

    /// Number of bytes known to be on the disk.
    pub fn present_bytes(&self) -> u64 {
        self.presence().present_bytes()
    }

    /// Reads until `buf` is full.
    ///
    /// # Errors
    ///
    /// What the system says; an end of the file before the end of `buf`.
    pub fn read_exact_at(&self, at: u64, buf: &mut [u8]) -> io::Result<()> {
        read_exact(&*self.file, buf, at)
    }

    /// Where the last present bytes begin that sum up to `bytes`; `None` when nothing is present.
    pub(crate) fn start_of_last(&self, bytes: u64) -> Option<u64> {
        let blocks = bytes.div_ceil(BLOCK.bytes());
        let (mut seen, mut start) = (0, None);
        for (n, word) in self.words.iter().enumerate().rev() {
            let n = n as u64;
            let mut word = word.load(std::sync::atomic::Ordering::Acquire);
            while word != 0 && seen < blocks {
                let bit = 63 - u64::from(word.leading_zeros());
                word &= !(1 << bit);
                seen += 1;
                start = Some((n * 64 + bit) * BLOCK.bytes());
            }
        }
        start
    }

    fn presence(&self) -> Presence<'_> {
        Presence::new(&self.words, self.coherency.size, BLOCK).expect("as many words as the size needs")
    }
}

impl Store {
    /// Opens an idle object; `None` when there is none.
    pub fn open_idle(&self, place: &Place) -> io::Result<Option<IdleObject>> {
        let Some(backing) = on_disk(self, place, &Spec::any(self.size_of(place)?))? else { return Ok(None) };
        let coherency = backing.coherency;
        let owner = owner(&coherency);
        let words = match coherency.state {
            State::Complete => owner.all(),
            State::Partial => load(self, place, &owner).words,
            State::Begun => owner.holes(),
        };
        let words = words.into_iter().map(AtomicU64::new).collect();
        Ok(Some(IdleObject { file: backing.file, coherency, words }))
    }

    fn size_of(&self, place: &Place) -> io::Result<u64> {
        Ok(self.storage.stat(&place.data)?.map_or(0, |stat| stat.len))
    }

    /// Takes a range, widened to whole blocks, away from an idle object, durably; returns how many bytes were
    /// known to be there. A file that cannot be written any more (fs-verity) goes whole.
    ///
    /// # Errors
    ///
    /// EBUSY while anybody has the file open: a mount of a worker that is dead would read the hole.
    pub fn take_away(
        &self,
        name: &Name,
        place: &Place,
        range: ObjectRange,
        why: &'static str,
    ) -> io::Result<u64> {
        let Some(idle) = self.open_idle(place)? else { return Ok(0) };
        if self.storage.is_open_elsewhere(idle.as_fd())? {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        self.index.break_seal()?;
        let before = idle.present_bytes();
        let owner = owner(&idle.coherency);
        let mut words: Vec<u64> = idle.words.into_iter().map(AtomicU64::into_inner).collect();
        let range = range.clamp_to(owner.size);
        let (first, end) = (range.start() >> BLOCK.bits(), BLOCK.count(range.end()));
        clear(&mut words, first, end);
        let file = match self.open_sealed(&idle.coherency, place) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                self.drop_object(name, place, why)?;
                self.storage.fsync_dir(&place.dir)?;
                return Ok(before);
            }
            Err(error) => return Err(error),
        };
        self.put(&place.map, &durable::encode(&words, &owner))?;
        if idle.coherency.state != State::Partial {
            let partial = Coherency { state: State::Partial, ..idle.coherency };
            file.set_attr(OBJECT_ATTR, &partial.encode())?;
            file.fsync()?;
        }
        let at = first << BLOCK.bits();
        point(Site::CachefilesUnmarked);
        file.punch(at, (end << BLOCK.bits()) - at)?;
        tracing::debug!(
            volume = %place.volume, cookie = %place.cookie, start = at, len = range.len(), why, "cachefiles_trunc"
        );
        self.look_again(name, place, &*file)?;
        let left = words.iter().map(|word| u64::from(word.count_ones())).sum::<u64>() << BLOCK.bits();
        Ok(before.saturating_sub(left))
    }

    /// Opens a file for writing that may be sealed.
    fn open_sealed(&self, coherency: &Coherency, place: &Place) -> io::Result<Box<dyn StorageFile>> {
        if coherency.state == State::Complete {
            self.storage.open(&place.data, Access::Read)?.set_mode(FILLING_MODE)?;
        }
        self.storage.open(&place.data, Access::ReadWrite)
    }

    /// Puts what an idle object takes now into the index and the ledger.
    fn look_again(&self, name: &Name, place: &Place, file: &dyn StorageFile) -> io::Result<()> {
        let old = self.index.get(name);
        let map = self.storage.stat(&place.map)?.map_or(0, |stat| stat.stored);
        let found = file.stat()?;
        let stored = found.stored.saturating_add(map);
        let row = match old {
            Some(old) => Row { stored, complete: false, seen: self.sight(place, &found), ..old },
            None => match self.look_at(place, self.storage.stat(&place.pin)?.is_some())? {
                Some(row) => {
                    self.ledger.found(row.charge());
                    row
                }
                None => return Ok(()),
            },
        };
        self.ledger.settle(old.unwrap_or(row).charge(), row.charge());
        self.index.put(name, row);
        Ok(())
    }
}

fn owner(coherency: &Coherency) -> Owner {
    Owner { instance: coherency.instance, size: coherency.size, block: BLOCK }
}

/// Clears the bits of blocks `first..end`.
fn clear(words: &mut [u64], first: u64, end: u64) {
    for (n, word) in (0u64..).zip(words) {
        let from = first.saturating_sub(n * 64).min(64);
        let to = end.saturating_sub(n * 64).min(64);
        for bit in from..to {
            *word &= !(1 << bit);
        }
    }
}
