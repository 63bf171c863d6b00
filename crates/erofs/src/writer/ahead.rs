//! [`Ahead`]: looks at directories on other threads before the scan comes to them.
//!
//! Looking at a file is a wait for the disk where it was not looked at before, and two system calls anyhow. The scan itself
//! goes its way in order and decides; a directory that nobody has begun when it comes to it, it lists itself.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::host_xattrs::XattrReader;
use super::listing::{Directory, Held, How};

/// What may wait for the scan, in bytes.
const HELD_BYTES_MAX: usize = 16 << 20;
/// Directories with the same parent that may wait for the scan: it goes through all that is below the first of them
/// before it comes to the second, and what is below is to have room.
const HELD_SIBLINGS_MAX: usize = 8;

/// Directories to be looked at, and those that are.
pub(super) struct Ahead {
    how: How,
    /// Whether anybody does.
    has_threads: bool,
    state: Mutex<State>,
    /// Something is wanted, or there is room.
    wanted: Condvar,
    /// Somebody has ended.
    ended: Condvar,
}

/// A directory, by its number, and that of its parent.
struct Wanted {
    id: u32,
    parent: u32,
    directory: Arc<Directory>,
}

#[derive(Default)]
struct State {
    /// The scan comes to the last one first.
    wanted: Vec<Wanted>,
    under_way: HashSet<u32>,
    held: HashMap<u32, (u32, Held)>,
    /// Of all that are held.
    bytes: usize,
    /// By parent: how many are under way or held.
    siblings: HashMap<u32, usize>,
    is_over: bool,
}

impl State {
    /// Whether there is a next one to be looked at, and room for it.
    fn has_next(&self) -> bool {
        let siblings = |parent| self.siblings.get(&parent).copied().unwrap_or(0);
        let has_room = |next: &Wanted| siblings(next.parent) < HELD_SIBLINGS_MAX;
        self.bytes < HELD_BYTES_MAX && self.wanted.last().is_some_and(has_room)
    }

    fn next(&mut self) -> Option<Wanted> {
        let next = if self.has_next() { self.wanted.pop()? } else { return None };
        *self.siblings.entry(next.parent).or_default() += 1;
        Some(next)
    }

    fn leave(&mut self, parent: u32) {
        if let Some(siblings) = self.siblings.get_mut(&parent) {
            *siblings -= 1;
            if *siblings == 0 {
                self.siblings.remove(&parent);
            }
        }
    }
}

impl Ahead {
    pub fn new(how: How, has_threads: bool) -> Self {
        Self { how, has_threads, state: Mutex::default(), wanted: Condvar::new(), ended: Condvar::new() }
    }

    /// How directories are listed.
    pub fn how(&self) -> &How {
        &self.how
    }

    /// The scan will come to these directories in `parent`, to the last one first.
    pub fn want(&self, parent: u32, directories: impl IntoIterator<Item = (u32, Arc<Directory>)>) {
        if self.has_threads {
            let all = directories.into_iter().map(|(id, directory)| Wanted { id, parent, directory });
            self.lock().wanted.extend(all);
            self.wanted.notify_all();
        }
    }

    /// What somebody has seen of a directory; after that nobody looks at it. `None` when the scan has to: nobody was there yet, or
    /// could, or it is large.
    pub fn take(&self, id: u32) -> Option<Held> {
        if !self.has_threads {
            return None;
        }
        let mut state = self.lock();
        while state.under_way.contains(&id) {
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some((parent, held)) = state.held.remove(&id) {
            state.bytes -= held.bytes;
            state.leave(parent);
            drop(state);
            self.wanted.notify_all();
            return Some(held);
        }
        if state.wanted.last().is_some_and(|wanted| wanted.id == id) {
            state.wanted.pop();
        }
        None
    }

    /// Looks at what is wanted until the scan is over.
    pub fn work(&self) {
        let mut reader = XattrReader::new();
        let mut state = self.lock();
        while !state.is_over {
            let Some(Wanted { id, parent, directory }) = state.next() else {
                state = self.wanted.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.under_way.insert(id);
            drop(state);
            let under_way = UnderWay { ahead: self, id, parent };
            let held = Held::of(&directory, &self.how, &mut reader);
            // What went wrong may have passed when it is the scan's turn, which is who tells it.
            under_way.end(held.ok().flatten());
            state = self.lock();
        }
    }

    /// Lets the threads end when it is dropped, however the scan ends.
    pub fn until_over(&self) -> impl Drop + use<'_> {
        struct Over<'a>(&'a Ahead);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.lock().is_over = true;
                self.0.wanted.notify_all();
            }
        }
        Over(self)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A directory that a thread looks at: the scan waits for it, and must not for one that has panicked.
struct UnderWay<'a> {
    ahead: &'a Ahead,
    id: u32,
    parent: u32,
}

impl UnderWay<'_> {
    fn end(self, held: Option<Held>) {
        if let Some(held) = held {
            let mut state = self.ahead.lock();
            state.bytes += held.bytes;
            *state.siblings.entry(self.parent).or_default() += 1;
            state.held.insert(self.id, (self.parent, held));
        }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut state = self.ahead.lock();
        state.under_way.remove(&self.id);
        state.leave(self.parent);
        drop(state);
        self.ahead.ended.notify_all();
        self.ahead.wanted.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::OwnedFd;
    use std::path::Path;
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    const HOW: How = How { only: None, xattrs: true };

    /// The directory called `name` in `root`, which has so many files.
    fn directory(root: &Path, name: &str, files: usize) -> Arc<Directory> {
        let path = root.join(name);
        fs::create_dir(&path).expect("can make");
        (0..files).for_each(|file| fs::write(path.join(file.to_string()), b"").expect("can write"));
        let root = Arc::new(OwnedFd::from(fs::File::open(root).expect("is there")));
        Arc::new(Directory { root, below: name.as_bytes().to_vec(), path })
    }

    /// Waits until nothing can be looked at any more, and tells how many directories are held.
    fn held(ahead: &Ahead) -> usize {
        let begun = Instant::now();
        loop {
            let state = ahead.lock();
            let is_idle = state.under_way.is_empty() && !state.has_next();
            if is_idle || begun.elapsed() > Duration::from_secs(60) {
                return state.held.len();
            }
            drop(state);
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn what_lies_below_the_first_of_many_siblings_is_looked_at_before_the_last_of_them() {
        let root = tempfile::tempdir().expect("can make");
        let siblings: Vec<_> =
            (0..40).map(|number| (number, directory(root.path(), &format!("s{number}"), 1))).collect();
        let below: Vec<_> =
            (0..3).map(|number| (100 + number, directory(root.path(), &format!("b{number}"), 1))).collect();
        let ahead = Ahead::new(HOW, true);
        thread::scope(|scope| {
            let _over = ahead.until_over();
            (0..2).for_each(|_| drop(scope.spawn(|| ahead.work())));
            ahead.want(1000, siblings);
            assert_eq!(held(&ahead), HELD_SIBLINGS_MAX);
            // The scan goes through the first, the one that was named last.
            assert_eq!(ahead.take(39).expect("held").entries.len(), 1);
            ahead.want(39, below);
            assert_eq!(held(&ahead), HELD_SIBLINGS_MAX + 3);
            assert!(ahead.take(102).is_some());
            assert!(ahead.take(0).is_none(), "far away");
        });
    }

    #[test]
    fn nothing_is_held_of_what_is_large_or_cannot_be_read() {
        let root = tempfile::tempdir().expect("can make");
        let large = directory(root.path(), "large", 4097);
        let gone = directory(root.path(), "gone", 0);
        fs::remove_dir(root.path().join("gone")).expect("can remove");
        let ahead = Ahead::new(HOW, true);
        thread::scope(|scope| {
            let _over = ahead.until_over();
            scope.spawn(|| ahead.work());
            ahead.want(0, [(1, gone), (2, large)]);
            assert!(ahead.take(2).is_none() && ahead.take(1).is_none());
        });
        assert!(ahead.lock().siblings.is_empty());
    }
}
