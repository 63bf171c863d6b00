//! What every byte must be: a function of the file's number and the byte's offset. No byte is zero, so that a hole that
//! is taken for data is seen at once.

use std::fmt;

use super::dice::mix;

/// Bytes that one value decides.
const WORD: usize = 8;

/// Every second file repeats its words, so that a codec has something to do.
const REPEATS: u64 = 8;

/// Writes what lies at `offset` of file `number` into `buf`.
pub fn fill(number: u64, offset: u64, buf: &mut [u8]) {
    let (mut at, mut rest) = (offset, buf);
    while !rest.is_empty() {
        let bytes = word(number, at / WORD as u64);
        let skip = usize::try_from(at % WORD as u64).unwrap_or(0);
        let len = rest.len().min(WORD - skip);
        let (now, later) = rest.split_at_mut(len);
        now.copy_from_slice(&bytes[skip..skip + len]);
        at += len as u64;
        rest = later;
    }
}

fn word(number: u64, index: u64) -> [u8; WORD] {
    let index = if number.is_multiple_of(2) { index } else { index / REPEATS };
    mix(mix(number) ^ index).to_le_bytes().map(|byte| byte.max(1))
}

/// A byte that is not what it must be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Wrong {
    /// Where, in the file.
    pub at: u64,
    /// How many bytes of the read were wrong.
    pub bytes: usize,
    /// How many of those were zero.
    pub zeros: usize,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} wrong bytes from {} on, {} of them zero", self.bytes, self.at, self.zeros)
    }
}

/// Compares what was read at `offset` of file `number` with the truth.
pub fn check(number: u64, offset: u64, found: &[u8]) -> Result<(), Wrong> {
    let mut expected = vec![0; found.len()];
    fill(number, offset, &mut expected);
    if expected == found {
        return Ok(());
    }
    let differ =
        || found.iter().zip(&expected).enumerate().filter(|(_, (found, expected))| found != expected);
    let at = differ().next().map_or(0, |(index, _)| index as u64);
    let zeros = differ().filter(|(_, (found, _))| **found == 0).count();
    Err(Wrong { at: offset + at, bytes: differ().count(), zeros })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_what_the_whole_has_there_and_no_byte_is_zero() {
        for number in [4, 5] {
            let mut whole = vec![0; 4096];
            fill(number, 0, &mut whole);
            assert!(!whole.contains(&0));
            for (start, end) in [(0, 1), (7, 9), (1, 4096), (4088, 4096), (13, 13)] {
                let mut piece = vec![0; end - start];
                fill(number, start as u64, &mut piece);
                assert_eq!(piece, whole[start..end]);
            }
        }
    }

    #[test]
    fn one_wrong_byte_is_found_with_its_place() {
        let mut bytes = vec![0; 1000];
        fill(3, 50, &mut bytes);
        assert_eq!(check(3, 50, &bytes), Ok(()));
        bytes[17] = 0;
        assert_eq!(check(3, 50, &bytes), Err(Wrong { at: 67, bytes: 1, zeros: 1 }));
        assert!(check(4, 50, &bytes).is_err());
    }
}
