//! [`MountTable`]: what is mounted where, and what is about to be.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::errors::{Kind, told};

use super::live::Live;

/// What is mounted where, and what is about to be.
///
/// A target is reserved while something is being mounted on it or unmounted from it, so that two callers never work
/// on one target; different targets do not wait for each other.
#[derive(Default)]
pub struct MountTable {
    slots: Mutex<BTreeMap<PathBuf, Slot>>,
    /// Told when somebody has done with a target.
    done: Notify,
}

enum Slot {
    /// Something is about to be mounted there.
    Coming,
    Live(Arc<Live>),
    /// Somebody unmounts it, and puts it back when that fails.
    Leaving,
}

/// The right to work on one target; without [`Reservation::fill`] the target is free again.
pub struct Reservation<'a> {
    table: &'a MountTable,
    target: PathBuf,
}

impl MountTable {
    /// Reserves a target on which nothing of ours is mounted.
    ///
    /// # Errors
    ///
    /// When something is, or is about to be.
    pub fn reserve(&self, target: &Path) -> anyhow::Result<Reservation<'_>> {
        let mut slots = self.lock();
        match slots.get(target) {
            None => {
                slots.insert(target.to_owned(), Slot::Coming);
                Ok(Reservation { table: self, target: target.to_owned() })
            }
            Some(Slot::Coming | Slot::Leaving) => Err(busy(target)),
            Some(Slot::Live(live)) => Err(told(
                Kind::Conflict,
                format!("{}: {} is mounted here already", target.display(), live.record.image),
                format!("`larder umount {}` takes it away", target.display()),
            )),
        }
    }

    /// Takes the mount on `target` out, to unmount it.
    ///
    /// # Errors
    ///
    /// When nothing of ours is mounted there, or somebody works on it.
    pub fn take(&self, target: &Path) -> anyhow::Result<(Arc<Live>, Reservation<'_>)> {
        let mut slots = self.lock();
        match slots.get(target) {
            Some(Slot::Live(live)) => {
                let live = Arc::clone(live);
                slots.insert(target.to_owned(), Slot::Leaving);
                Ok((live, Reservation { table: self, target: target.to_owned() }))
            }
            Some(Slot::Coming | Slot::Leaving) => Err(busy(target)),
            None => Err(told(
                Kind::NotFound,
                format!("{}: no image of this daemon is mounted here", target.display()),
                "`larder status` lists what is mounted",
            )),
        }
    }

    /// Every mount, in the order of their targets.
    pub fn all(&self) -> Vec<Arc<Live>> {
        let live = |slot: &Slot| match slot {
            Slot::Live(live) => Some(Arc::clone(live)),
            Slot::Coming | Slot::Leaving => None,
        };
        self.lock().values().filter_map(live).collect()
    }

    /// The mount called `id`.
    pub fn find(&self, id: &str) -> Option<Arc<Live>> {
        self.all().into_iter().find(|live| live.record.id == id)
    }

    /// Waits until nobody unmounts anything, and tells whether nothing is mounted then. What is about to be mounted does not
    /// count.
    pub(super) async fn is_empty_at_last(&self) -> bool {
        loop {
            // Listened for before the look: it may happen in between.
            let mut done = pin!(self.done.notified());
            done.as_mut().enable();
            if let Some(is_empty) = self.is_empty_now() {
                return is_empty;
            }
            done.await;
        }
    }

    /// Whether nothing is mounted; `None` while somebody unmounts.
    fn is_empty_now(&self) -> Option<bool> {
        let slots = self.lock();
        let is_leaving = slots.values().any(|slot| matches!(slot, Slot::Leaving));
        (!is_leaving).then(|| !slots.values().any(|slot| matches!(slot, Slot::Live(_))))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reservation<'_> {
    /// Puts a mount on the target.
    pub fn fill(self, live: Arc<Live>) {
        self.table.lock().insert(self.target.clone(), Slot::Live(live));
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut slots = self.table.lock();
        if matches!(slots.get(&self.target), Some(Slot::Coming | Slot::Leaving)) {
            slots.remove(&self.target);
        }
        drop(slots);
        self.table.done.notify_waiters();
    }
}

fn busy(target: &Path) -> anyhow::Error {
    told(Kind::Conflict, format!("{}: another command works on it", target.display()), "try again")
}
