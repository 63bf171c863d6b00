//! [`Ledger`]: what was asked and what was sent.

use std::collections::HashMap;

/// One request as it came, with the status it got.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Logged {
    /// Path without query.
    pub path: String,
    /// Query, if any.
    pub query: Option<String>,
    /// `Range`, if any.
    pub range: Option<String>,
    /// `Accept`, if any.
    pub accept: Option<String>,
    /// `Authorization`, if any.
    pub authorization: Option<String>,
    /// Status of the answer; 0 when the connection was cut instead.
    pub status: u16,
}

/// What was asked and what was sent since the start or the last reset.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Requests in the order of their answers.
    pub requests: Vec<Logged>,
    /// For each blob the half-open ranges handed to the connection, one for each answer.
    pub served: HashMap<String, Vec<(u64, u64)>>,
}

impl Ledger {
    /// Returns the largest number of times that any byte of the blob was sent.
    pub fn max_times_served(&self, digest: &str) -> usize {
        let mut edges = Vec::new();
        for &(start, end) in self.served.get(digest).into_iter().flatten().filter(|(start, end)| start < end)
        {
            edges.push((start, true));
            edges.push((end, false));
        }
        // At one place, ends come before starts: half-open ranges that touch do not overlap.
        edges.sort_unstable();
        let (mut open, mut most) = (0usize, 0);
        for (_, opens) in edges {
            open = if opens { open + 1 } else { open - 1 };
            most = most.max(open);
        }
        most
    }

    /// Returns the number of bytes of blobs sent, repetitions included.
    pub fn bytes_served(&self) -> u64 {
        self.served.values().flatten().map(|(start, end)| end - start).sum()
    }

    /// Notes that an answer begins at `start`; the result names it in [`Ledger::extend`].
    pub(crate) fn open(&mut self, digest: &str, start: u64) -> usize {
        let served = self.served.entry(digest.to_owned()).or_default();
        served.push((start, start));
        served.len() - 1
    }

    /// Notes that the answer got to `end`; nothing after a reset.
    pub(crate) fn extend(&mut self, digest: &str, answer: usize, end: u64) {
        if let Some(range) = self.served.get_mut(digest).and_then(|served| served.get_mut(answer)) {
            range.1 = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_are_counted_and_touching_ranges_are_none() {
        let count = |ranges: &[(u64, u64)]| {
            let served = HashMap::from([("d".to_owned(), ranges.to_vec())]);
            Ledger { served, ..Ledger::default() }.max_times_served("d")
        };
        assert_eq!(count(&[]), 0);
        assert_eq!(count(&[(5, 5)]), 0);
        assert_eq!(count(&[(0, 5), (5, 9)]), 1);
        assert_eq!(count(&[(0, 6), (5, 9)]), 2);
        assert_eq!(count(&[(0, 9), (1, 3), (2, 3), (3, 4)]), 3);
        assert_eq!(Ledger::default().max_times_served("d"), 0);
    }
}
