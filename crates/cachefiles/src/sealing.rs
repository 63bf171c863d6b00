//! [`Sealing`]: fs-verity, where there is one, for complete objects that nobody uses.
//!
//! The kernel reads the whole file for it, and refuses while anybody has the file open for writing: the keeper closes its
//! copy some time after it was told to. So an object that is let go only waits here, and upkeep has the files
//! sealed in the background, one at a time. Whoever acquires the object meanwhile need not wait: a complete one is only read.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::coherency::{Coherency, OBJECT_ATTR, State};
use crate::index::Row;
use crate::layout::Place;
use crate::object::Name;
use crate::storage::{Access, Storage, StorageFile};
use crate::store::Store;

/// Objects that wait; what comes when there are as many stays without.
const WAITING_MAX: usize = 4096;
/// Files that are opened at a time.
const STEP: usize = 16;
/// How often a file is tried that is open for writing: upkeep comes every few seconds.
const TRIES_MAX: u32 = 20;

/// Who waits to be sealed.
#[derive(Debug, Default)]
pub(crate) struct Sealing(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<(Name, u32)>,
    /// What was sealed, and takes more on the disk than the index knows of: the kernel's tree of digests.
    grown: Vec<Name>,
    is_under_way: bool,
    /// The file system has no fs-verity.
    is_in_vain: bool,
}

impl Sealing {
    /// Takes note of a complete object that was let go.
    pub fn push(&self, name: Name) {
        self.push_again(name, 0);
    }

    fn push_again(&self, name: Name, tries: u32) {
        let mut queue = self.lock();
        let is_there = queue.waiting.iter().any(|(waits, _)| *waits == name);
        if !queue.is_in_vain && !is_there && tries < TRIES_MAX && queue.waiting.len() < WAITING_MAX {
            queue.waiting.push_back((name, tries));
        }
    }

    /// The next that wait, unless somebody works at some already: [`is_through`](Self::is_through) is to be called then.
    fn begin(&self) -> Vec<(Name, u32)> {
        let mut queue = self.lock();
        if queue.is_under_way || queue.waiting.is_empty() {
            return Vec::new();
        }
        queue.is_under_way = true;
        let step = queue.waiting.len().min(STEP);
        queue.waiting.drain(..step).collect()
    }

    fn has_grown(&self, name: Name) {
        self.lock().grown.push(name);
    }

    fn take_grown(&self) -> Vec<Name> {
        std::mem::take(&mut self.lock().grown)
    }

    fn is_through(&self) {
        self.lock().is_under_way = false;
    }

    /// The file system has no fs-verity.
    fn is_in_vain(&self) {
        let mut queue = self.lock();
        queue.is_in_vain = true;
        queue.waiting.clear();
    }

    /// Whoever panics while it holds the lock leaves the queue whole.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file that is to be sealed.
struct Unsealed {
    name: Name,
    tries: u32,
    file: Box<dyn StorageFile>,
}

impl Store {
    /// Has some of what was let go sealed, in the background.
    pub fn seal_what_was_let_go(&self) {
        for name in self.sealing.take_grown() {
            self.settle_grown(name);
        }
        let begun = self.sealing.begin();
        if begun.is_empty() {
            return;
        }
        let unsealed = begun.into_iter().filter_map(|(name, tries)| {
            let file = self.file_to_seal(&name)?;
            Some(Unsealed { name, tries, file })
        });
        let unsealed: Vec<_> = unsealed.collect();
        // Neither the cache nor its lock is kept: the kernel may read a file for minutes.
        let (sealing, storage) = (Arc::clone(&self.sealing), Arc::clone(&self.storage));
        let spawned = thread::Builder::new().name("larder-seal".to_owned()).spawn(move || {
            let _through = Through(&sealing);
            unsealed.into_iter().for_each(|unsealed| seal(&sealing, &*storage, unsealed));
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "what was let go stays without fs-verity");
            self.sealing.is_through();
        }
    }

    /// Charges what a file takes since it was sealed; later, if the object is in use now.
    fn settle_grown(&self, name: Name) {
        let settle = || -> io::Result<()> {
            let place = Place::new(&name.0, &name.1);
            let (Some(old), Some(data)) = (self.index.get(&name), self.storage.stat(&place.data)?) else {
                return Ok(());
            };
            let map = self.storage.stat(&place.map)?.map_or(0, |map| map.stored);
            self.index.break_seal()?;
            let row = Row { stored: data.stored.saturating_add(map), seen: self.sight(&place, &data), ..old };
            self.ledger.settle(old.charge(), row.charge());
            self.index.put(&name, row);
            Ok(())
        };
        match self.objects.while_idle(&name, settle) {
            None => self.sealing.has_grown(name),
            Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::debug!(volume = %name.0, cookie = %name.1, %error, "what it takes is not settled");
            }
        }
    }

    /// The file of an object, if it is complete and nobody uses it. What is another object by the time that it is sealed
    /// has another file.
    fn file_to_seal(&self, name: &Name) -> Option<Box<dyn StorageFile>> {
        let place = Place::new(&name.0, &name.1);
        let open = || -> io::Result<Option<Box<dyn StorageFile>>> {
            if self.is_held(&place) {
                return Ok(None);
            }
            let file = self.storage.open(&place.data, Access::Read)?;
            let coherency = Coherency::parse(file.attr(OBJECT_ATTR)?.as_deref());
            Ok(coherency.is_ok_and(|coherency| coherency.state == State::Complete).then_some(file))
        };
        match self.objects.while_idle(name, open)? {
            Ok(file) => file,
            Err(error) => {
                tracing::debug!(volume = %name.0, cookie = %name.1, %error, "no fs-verity for this object");
                None
            }
        }
    }
}

/// Ends a step, be it by a panic.
struct Through<'a>(&'a Sealing);

impl Drop for Through<'_> {
    fn drop(&mut self) {
        self.0.is_through();
    }
}

fn seal(sealing: &Sealing, storage: &dyn Storage, Unsealed { name, tries, file }: Unsealed) {
    let (volume, cookie) = (&name.0, &name.1);
    match storage.enable_verity(file.as_fd()) {
        Ok(true) => {
            tracing::debug!(%volume, %cookie, "sealed with fs-verity");
            sealing.has_grown(name);
        }
        Ok(false) => sealing.is_in_vain(),
        Err(busy) if busy.kind() == io::ErrorKind::ExecutableFileBusy => sealing.push_again(name, tries + 1),
        Err(error) => tracing::debug!(%volume, %cookie, %error, "no fs-verity for this object"),
    }
}
