//! [`Touched`]: when objects were used last, as far as their rows do not say it yet.
//!
//! To note the time in the row a look-up would have to change the row, and where files are not opened by their handles, to read
//! it, which is one more read of the disk. Here it is noted without: whoever reads a row asks here too. Names stand here as hashes; should two ever share one, an object
//! counts as used that was not, and is culled later.

use std::collections::HashMap;

use super::Row;
use crate::layout::hash;

/// Names that are kept at most, about 2 MiB.
const MAX: usize = 64 << 10;

/// When objects were used last, in milliseconds since 1970, by the hashes of their keys in the index.
#[derive(Clone, Debug, Default)]
pub(super) struct Touched(HashMap<u64, u64>);

impl Touched {
    /// Notes a time. When there is no room, the older half is forgotten: what their rows say holds.
    pub fn touch(&mut self, key: &str, used_ms: u64) {
        if self.0.len() >= MAX {
            self.forget_older_half();
        }
        self.0.insert(hash(key), used_ms);
    }

    /// The row with the time that was noted, if that is later than its own.
    pub fn told(&self, key: &str, row: Row) -> Row {
        Row { used_ms: self.get(key).unwrap_or(0).max(row.used_ms), ..row }
    }

    /// The time that was noted.
    pub fn get(&self, key: &str) -> Option<u64> {
        if self.0.is_empty() { None } else { self.0.get(&hash(key)).copied() }
    }

    /// The row says it now, or is gone.
    pub fn forget(&mut self, key: &str) {
        if !self.0.is_empty() {
            self.0.remove(&hash(key));
        }
    }

    /// Forgets what is no newer here than in `others`.
    pub fn forget_all(&mut self, others: &Self) {
        self.0.retain(|key, used_ms| others.0.get(key).is_none_or(|then| then < used_ms));
    }

    /// Whether there is so much that it should go into the rows.
    pub fn is_much(&self) -> bool {
        self.0.len() >= MAX / 2
    }

    /// Hash and time of each, little-endian.
    pub fn encode(&self) -> Vec<u8> {
        self.0
            .iter()
            .flat_map(|(key, used_ms)| [key.to_le_bytes(), used_ms.to_le_bytes()])
            .flatten()
            .collect()
    }

    /// Reads what was encoded; what does not fit is left out.
    pub fn parse(bytes: &[u8]) -> Self {
        let (pairs, _) = bytes.as_chunks::<16>();
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        Self(pairs.iter().take(MAX).map(|pair| (number(&pair[..8]), number(&pair[8..]))).collect())
    }

    fn forget_older_half(&mut self) {
        let mut times: Vec<u64> = self.0.values().copied().collect();
        let middle = times.len() / 2;
        let (_, median, _) = times.select_nth_unstable(middle);
        let median = *median;
        let mut left = self.0.len();
        self.0.retain(|_, used_ms| {
            let goes = *used_ms <= median && left > middle;
            left -= usize::from(goes);
            !goes
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_grows_and_keeps_what_was_used_last() {
        for same_time in [false, true] {
            let mut touched = Touched::default();
            for n in 0..3 * MAX as u64 {
                touched.touch(&format!("v/{n}"), if same_time { 1 } else { n });
                assert!(touched.0.len() <= MAX);
            }
            let last = 3 * MAX as u64 - 1;
            assert_eq!(touched.get(&format!("v/{last}")), Some(if same_time { 1 } else { last }));
            assert!(touched.0.len() >= MAX / 2);
            assert!(
                same_time || (0..MAX / 2).all(|n| touched.get(&format!("v/{}", last - n as u64)).is_some())
            );
        }
    }

    #[test]
    fn it_reads_back_as_it_was_written_and_takes_any_bytes() {
        let mut touched = Touched::default();
        touched.touch("v/a", 1 << 60);
        touched.touch("v/b", 2);
        let bytes = touched.encode();
        assert_eq!(Touched::parse(&bytes).0, touched.0);
        assert_eq!(Touched::parse(&bytes[..31]).0.len(), 1);
        assert!(Touched::parse(&[7; 15]).0.is_empty());
        assert_eq!(Touched::parse(&vec![0; 32 * MAX]).0.len(), 1);
    }

    #[test]
    fn what_was_touched_again_meanwhile_stays() {
        let mut touched = Touched::default();
        touched.touch("v/a", 1);
        touched.touch("v/b", 1);
        let before = touched.clone();
        touched.touch("v/b", 2);
        touched.forget_all(&before);
        assert_eq!((touched.get("v/a"), touched.get("v/b")), (None, Some(2)));
    }
}
