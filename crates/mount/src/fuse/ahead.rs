//! [`Ahead`]: the part of a listing that is asked for next, made while the reader goes through the one before.

use std::sync::{Mutex, PoisonError, TryLockError};

use super::dir::Listing;
use super::file_system::{Errno, ListAt, NodeId};

/// One part, of one directory: whoever lists another one meanwhile takes its place.
#[derive(Debug, Default)]
pub(super) struct Ahead(Mutex<Option<Part>>);

#[derive(Debug)]
struct Part {
    node: NodeId,
    offset: u64,
    listing: Listing,
}

impl Ahead {
    /// Takes the part at `at`, if it is there and of the kind that is `asked` for. Waits for one that is being made.
    pub fn take(&self, at: ListAt, asked: &Listing) -> Option<Listing> {
        let mut part = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it =
            |part: &mut Part| part.node == at.node && part.offset == at.offset && part.listing.is_like(asked);
        part.take_if(is_it).map(|part| part.listing)
    }

    /// Makes the part at `at`. A listing that fails is left to whoever asks for it.
    pub fn make(&self, at: ListAt, make: impl FnOnce() -> Result<Listing, Errno>) {
        let mut part = match self.0.try_lock() {
            Ok(part) => part,
            // Somebody makes another one.
            Err(TryLockError::WouldBlock) => return,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        };
        *part = make().ok().map(|listing| Part { node: at.node, offset: at.offset, listing });
    }

    /// Forgets what nobody asks for any more.
    pub fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[cfg(test)]
mod tests {
    use super::super::dir::Name;
    use super::*;

    fn at(node: u64, offset: u64) -> ListAt {
        ListAt { node: NodeId(node), handle: 0, offset }
    }

    fn listing(size: usize) -> Listing {
        let mut listing = Listing::new(size, false);
        listing.push(Name { name: b"name", ino: 5, next: 9, type_bits: 0 }, None);
        listing
    }

    #[test]
    fn a_part_is_had_once_by_whoever_asks_for_the_same() {
        let ahead = Ahead::default();
        ahead.make(at(2, 7), || Ok(listing(4096)));
        for (other, asked) in [
            (at(3, 7), Listing::new(4096, false)),
            (at(2, 8), Listing::new(4096, false)),
            (at(2, 7), Listing::new(4096, true)),
            (at(2, 7), Listing::new(4095, false)),
        ] {
            assert!(ahead.take(other, &asked).is_none(), "{other:?} {asked:?}");
        }
        let found = ahead.take(at(2, 7), &Listing::new(4096, false)).expect("made");
        assert_eq!(found.into_bytes(), listing(4096).into_bytes());
        assert!(ahead.take(at(2, 7), &Listing::new(4096, false)).is_none());
    }

    #[test]
    fn what_fails_leaves_nothing_behind() {
        let ahead = Ahead::default();
        ahead.make(at(2, 7), || Ok(listing(4096)));
        ahead.make(at(2, 8), || Err(libc::EIO));
        for offset in [7, 8] {
            assert!(ahead.take(at(2, offset), &Listing::new(4096, false)).is_none());
        }
        ahead.make(at(2, 7), || Ok(listing(4096)));
        ahead.clear();
        assert!(ahead.take(at(2, 7), &Listing::new(4096, false)).is_none());
    }
}
