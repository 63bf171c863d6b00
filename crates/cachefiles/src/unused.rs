//! What the holder keeps and nobody uses.
//!
//! An unmount returns before the kernel has closed the files that it read: then the object stays with the holder, and
//! cannot be culled. Upkeep lets it go a few seconds later, and so does a writer that finds no room.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::layout::Place;
use crate::object::Name;
use crate::store::Store;

/// Whether what nobody uses may be told from what is still to be taken up again.
#[derive(Debug, Default)]
pub(crate) struct Unused(AtomicBool);

impl Unused {
    /// Everything that is to be taken up again has been.
    pub fn all_taken_up(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is_known(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// What came of an attempt.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct LetGo {
    /// Number of objects that were let go.
    pub let_go: usize,
    /// Number of objects that nobody here uses, and whose files are open elsewhere.
    pub open_elsewhere: usize,
}

impl Store {
    /// Lets an object go that is not alive.
    ///
    /// # Errors
    ///
    /// EBUSY while its file is open elsewhere: a mount that nobody counts any more may still be read, and nothing of it
    /// may be taken away yet.
    pub fn let_go(&self, name: &Name, place: &Place) -> io::Result<()> {
        let fill = self.holder.take(&place.fill)?;
        if let Some(fill) = &fill
            && self.storage.is_open_elsewhere(fill.as_fd())?
        {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        self.holder.release(&place.live);
        if let Some(fill) = &fill {
            self.holder.release_last(&place.fill, fill.as_fd());
        }
        if self.index.get(name).is_some_and(|row| row.complete) {
            self.sealing.push(name.clone());
        }
        Ok(())
    }

    /// Lets everything go that the holder keeps and nobody uses; nothing as long as nobody knows what that is.
    pub fn relinquish_unused(&self) -> LetGo {
        let mut sums = LetGo::default();
        if !self.unused.is_known() {
            return sums;
        }
        for name in self.holder.names().iter().filter_map(|name| Place::of_held(name)) {
            let place = Place::new(&name.0, &name.1);
            match self.objects.while_idle(&name, || self.let_go(&name, &place)) {
                None => {}
                Some(Ok(())) => {
                    sums.let_go += 1;
                    tracing::debug!(volume = %name.0, cookie = %name.1, "nobody used what the keeper had");
                }
                Some(Err(busy)) if busy.kind() == io::ErrorKind::ResourceBusy => sums.open_elsewhere += 1,
                Some(Err(error)) => {
                    tracing::warn!(volume = %name.0, cookie = %name.1, %error, "an object that nobody uses stays open");
                }
            }
        }
        sums
    }
}
