//! [`Verdict`]: what a point says to the code that stands at it.

use rustix::io::Errno;

/// What the code at a point does next.
///
/// Death is not among it: a point that is to be the last thing kills the process itself and does not return, so that
/// no caller can survive it by mistake.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// The real thing.
    Go,
    /// Nothing is done, and this error reported.
    Fail(Errno),
    /// Only this share of the bytes is moved. Only at a [`Power::Transfer`](crate::Power::Transfer) site.
    Short(Share),
}

/// A share of a whole, in parts of 65536.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Share(pub u16);

impl Share {
    /// The share of `len` bytes: at least one byte of any, because none would mean the end of the file.
    pub fn of(self, len: usize) -> usize {
        let whole = len as u128;
        let part = (whole * u128::from(self.0)) >> 16;
        usize::try_from(part).unwrap_or(len).max(1).min(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_at_least_a_byte_and_never_more_than_there_is() {
        for (share, len, expected) in [
            (0, 0, 0),
            (0, 1, 1),
            (0, 4096, 1),
            (u16::MAX, 1, 1),
            (u16::MAX, 4096, 4095),
            (1 << 15, 4096, 2048),
            (u16::MAX, usize::MAX, usize::MAX - (usize::MAX >> 16) - 1),
        ] {
            assert_eq!(Share(share).of(len), expected, "{share} of {len}");
        }
    }
}
