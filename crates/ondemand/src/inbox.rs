//! [`Inbox`]: bytes as they arrive, cut into chunks.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Bytes that have arrived and not yet been taken, in order.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    pieces: VecDeque<Bytes>,
    len: usize,
}

impl Inbox {
    pub fn push(&mut self, piece: Bytes) {
        self.len += piece.len();
        if !piece.is_empty() {
            self.pieces.push_back(piece);
        }
    }

    /// Takes the next `count` bytes, or nothing while fewer have arrived. Copies only what arrived in several pieces.
    pub fn take(&mut self, count: u64) -> Option<Bytes> {
        let count = usize::try_from(count).ok().filter(|count| *count <= self.len)?;
        self.len -= count;
        if let Some(front) = self.pieces.front_mut()
            && front.len() >= count
        {
            return Some(front.split_to(count));
        }
        let mut gathered = BytesMut::with_capacity(count);
        while gathered.len() < count {
            let mut piece = self.pieces.pop_front()?;
            let wanted = count - gathered.len();
            if piece.len() > wanted {
                self.pieces.push_front(piece.split_off(wanted));
            }
            gathered.extend_from_slice(&piece);
        }
        Some(gathered.freeze())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_is_given_before_all_of_it_is_there() {
        let mut inbox = Inbox::default();
        inbox.push(Bytes::from_static(b"ab"));
        assert_eq!(inbox.take(3), None);
        inbox.push(Bytes::from_static(b"cd"));
        assert_eq!(inbox.take(3).as_deref(), Some(&b"abc"[..]));
        assert_eq!(inbox.take(1).as_deref(), Some(&b"d"[..]));
        assert_eq!(inbox.take(0).as_deref(), Some(&b""[..]));
        assert_eq!(inbox.take(1), None);
    }

    proptest! {
        #[test]
        fn however_it_arrives_the_order_stays(pieces in prop::collection::vec(0usize..9, 0..30), cut in 1u64..12) {
            let total: usize = pieces.iter().sum();
            let data: Vec<u8> = (0..total).map(|n| u8::try_from(n % 251).expect("under 251")).collect();
            let (mut inbox, mut from, mut got) = (Inbox::default(), 0, Vec::new());
            for len in pieces {
                inbox.push(Bytes::copy_from_slice(&data[from..from + len]));
                from += len;
                while let Some(chunk) = inbox.take(cut) {
                    got.extend_from_slice(&chunk);
                }
            }
            prop_assert!(total - got.len() < usize::try_from(cut).expect("small"));
            prop_assert_eq!(&got[..], &data[..got.len()]);
        }
    }
}
