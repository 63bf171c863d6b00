//! [`Ahead`]: lists directories on other threads before the scan comes to them.
//!
//! Looking at a file is a wait for the disk where it was not looked at before, and two system calls anyhow. The scan itself
//! goes its way in order and decides; a directory that nobody has begun when it comes to it, it lists itself.

use std::collections::{HashMap, HashSet};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::host_xattrs::XattrReader;
use super::listing::{Directory, How, Listing};

/// Listings and entries of listings that may wait for the scan: a few megabytes, and as many descriptors.
const LISTINGS_MAX: usize = 32;
const ENTRIES_MAX: usize = 16 << 10;

/// Directories to be listed, and those that are.
pub(super) struct Ahead {
    how: How,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The scan comes to the last one first.
    wanted: Vec<(u32, Directory)>,
    under_way: HashSet<u32>,
    made: HashMap<u32, Listing>,
    /// Of all that are made.
    entries: usize,
    is_over: bool,
}

impl State {
    fn has_room(&self) -> bool {
        self.made.len() + self.under_way.len() < LISTINGS_MAX && self.entries < ENTRIES_MAX
    }
}

impl Ahead {
    pub fn new(how: How) -> Self {
        Self { how, state: Mutex::default(), changed: Condvar::new() }
    }

    /// The scan will come to these, the last one first.
    pub fn want(&self, directories: impl IntoIterator<Item = (u32, Directory)>) {
        self.lock().wanted.extend(directories);
        self.changed.notify_all();
    }

    /// The listing of a directory that is wanted.
    ///
    /// # Errors
    ///
    /// What keeps this thread from listing it: what another one met may have passed.
    pub fn take(&self, id: u32, directory: &Directory, reader: &mut XattrReader) -> Result<Listing, Errno> {
        let mut state = self.lock();
        while state.under_way.contains(&id) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(made) = state.made.remove(&id) {
            state.entries -= made.len();
            drop(state);
            self.changed.notify_all();
            return Ok(made);
        }
        if let Some(at) = state.wanted.iter().rposition(|(wanted, _)| *wanted == id) {
            state.wanted.remove(at);
        }
        drop(state);
        Listing::of(directory, &self.how, reader)
    }

    /// Lists what is wanted until the scan is over.
    pub fn work(&self) {
        let mut reader = XattrReader::new();
        let mut state = self.lock();
        while !state.is_over {
            let next = if state.has_room() { state.wanted.pop() } else { None };
            let Some((id, directory)) = next else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.under_way.insert(id);
            drop(state);
            let under_way = UnderWay { ahead: self, id };
            let made = Listing::of(&directory, &self.how, &mut reader);
            state = under_way.end(made.ok());
        }
    }

    /// Lets the threads end when it is dropped, however the scan ends.
    pub fn until_over(&self) -> impl Drop + use<'_> {
        struct Over<'a>(&'a Ahead);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.lock().is_over = true;
                self.0.changed.notify_all();
            }
        }
        Over(self)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A directory that a thread lists: the scan waits for it, and must not for one that has panicked.
struct UnderWay<'a> {
    ahead: &'a Ahead,
    id: u32,
}

impl<'a> UnderWay<'a> {
    fn end(self, made: Option<Listing>) -> MutexGuard<'a, State> {
        let mut state = self.ahead.lock();
        if let Some(made) = made {
            state.entries += made.len();
            state.made.insert(self.id, made);
        }
        state.under_way.remove(&self.id);
        let ahead = self.ahead;
        std::mem::forget(self);
        ahead.changed.notify_all();
        state
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.ahead.lock().under_way.remove(&self.id);
        self.ahead.changed.notify_all();
    }
}
