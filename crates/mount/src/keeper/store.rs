//! What is kept: descriptors by name.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Descriptors by name, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Store {
    kept: Vec<(Box<str>, OwnedFd)>,
}

impl Store {
    pub(super) fn keep(&mut self, name: &str, fd: OwnedFd) {
        match self.kept.iter_mut().find(|(kept, _)| &**kept == name) {
            Some((_, old)) => *old = fd,
            None => self.kept.push((name.into(), fd)),
        }
    }

    pub(super) fn release(&mut self, name: &str) {
        self.kept.retain(|(kept, _)| &**kept != name);
    }

    pub(super) fn get(&self, index: usize) -> Option<(&str, BorrowedFd<'_>)> {
        self.kept.get(index).map(|(name, fd)| (&**name, fd.as_fd()))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.kept.iter().map(|(name, _)| &**name)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_kept_once_and_released_for_good() {
        let fd = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let mut store = Store::default();
        store.keep("a", fd());
        store.keep("b", fd());
        store.keep("a", fd());
        assert_eq!(store.get(0).unwrap().0, "a");
        assert_eq!(store.get(1).unwrap().0, "b");
        assert!(store.get(2).is_none());
        store.release("a");
        store.release("nothing");
        assert_eq!(store.get(0).unwrap().0, "b");
        store.release("b");
        assert!(store.is_empty());
    }
}
