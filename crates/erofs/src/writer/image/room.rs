//! [`Room`]: memory for encoded bytes, used again without being zeroed again.

use std::ops::Range;

/// Bytes that grow at their end, where an encoder is given more than it will fill.
///
/// A pcluster may have 1 MiB, and most files have less than one: to zero all of it for each of them takes as long as
/// to encode some.
#[derive(Debug, Default)]
pub(in crate::writer) struct Room {
    /// What is in use, and behind it whatever was there before.
    bytes: Vec<u8>,
    used: usize,
}

impl Room {
    /// Bytes in use.
    pub fn len(&self) -> usize {
        self.used
    }

    /// The bytes of a range that is in use.
    ///
    /// # Panics
    ///
    /// When it is not.
    pub fn get(&self, range: Range<usize>) -> &[u8] {
        &self.bytes[..self.used][range]
    }

    /// `len` bytes behind what is in use, with anything in them.
    pub fn behind(&mut self, len: usize) -> &mut [u8] {
        let end = self.used + len;
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        &mut self.bytes[self.used..end]
    }

    /// Takes the first `len` of the bytes behind into use.
    ///
    /// # Panics
    ///
    /// When [`behind`](Self::behind) has not given out so many.
    pub fn take(&mut self, len: usize) {
        assert!(len <= self.bytes.len() - self.used, "only bytes that were given out");
        self.used += len;
    }

    /// Takes copies of `bytes` into use.
    pub fn push(&mut self, bytes: &[u8]) {
        self.behind(bytes.len()).copy_from_slice(bytes);
        self.take(bytes.len());
    }

    /// Leaves only the first `len` bytes in use.
    pub fn truncate(&mut self, len: usize) {
        self.used = self.used.min(len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_behind_counts_once_it_is_taken() {
        let mut room = Room::default();
        room.behind(100).fill(7);
        assert_eq!(room.len(), 0);
        room.take(3);
        room.push(b"ab");
        assert_eq!(room.get(1..5), [7, 7, b'a', b'b']);
        room.truncate(2);
        room.truncate(9);
        assert_eq!((room.len(), room.get(0..2)), (2, &[7, 7][..]));
        assert_eq!(room.behind(2), [7, b'a'], "memory is used again as it is");
    }

    #[test]
    #[should_panic(expected = "only bytes that were given out")]
    fn nothing_is_taken_that_was_not_given_out() {
        let mut room = Room::default();
        room.behind(2);
        room.take(3);
    }
}
