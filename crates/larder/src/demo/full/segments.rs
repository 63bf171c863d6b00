//! [`Segments`]: which file gets which bytes of a blob, in the order of the blob.

/// A run of bytes of a blob, and the file that gets it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Segment {
    /// First byte in the decoded blob.
    pub(super) start: u64,
    /// First byte after it.
    pub(super) end: u64,
    /// Which file.
    pub(super) file: usize,
    /// Where in the file it goes.
    pub(super) at: u64,
}

/// The segments of one blob, handed out while the blob passes by.
///
/// Deduplicated content belongs to several files, so that segments may overlap.
#[derive(Debug)]
pub(super) struct Segments {
    /// In descending order: the next one is the last.
    waiting: Vec<Segment>,
    open: Vec<Segment>,
}

impl Segments {
    pub(super) fn new(mut segments: Vec<Segment>) -> Self {
        segments.sort_unstable_by(|a, b| b.cmp(a));
        Self { waiting: segments, open: Vec::new() }
    }

    /// Whether no file wants anything more.
    pub(super) fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.open.is_empty()
    }

    /// Returns the pieces of segments that lie in `start..end`; each call must continue where the one before ended.
    pub(super) fn pass(&mut self, start: u64, end: u64) -> Vec<Segment> {
        while let Some(next) = self.waiting.pop_if(|next| next.start < end) {
            self.open.push(next);
        }
        let piece = |segment: &Segment| {
            let from = segment.start.max(start);
            Segment {
                start: from,
                end: segment.end.min(end),
                at: segment.at + (from - segment.start),
                ..*segment
            }
        };
        let pieces = self.open.iter().map(piece).filter(|piece| piece.start < piece.end).collect();
        self.open.retain(|segment| segment.end > end);
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_every_segment_comes_once_and_in_place() {
        let segment = |start, end, file, at| Segment { start, end, file, at };
        let all =
            vec![segment(5, 25, 0, 100), segment(0, 5, 1, 0), segment(10, 15, 2, 7), segment(29, 30, 3, 0)];
        for step in [1, 3, 10, 40] {
            let mut segments = Segments::new(all.clone());
            let mut seen = Vec::new();
            let mut start = 0;
            while !segments.is_done() {
                let end = start + step;
                for piece in segments.pass(start, end) {
                    assert!(start <= piece.start && piece.end <= end);
                    seen.extend(
                        (piece.start..piece.end)
                            .map(|byte| (piece.file, byte, piece.at + byte - piece.start)),
                    );
                }
                start = end;
            }
            seen.sort_unstable();
            let mut expected: Vec<_> = all
                .iter()
                .flat_map(|one| (one.start..one.end).map(|byte| (one.file, byte, one.at + byte - one.start)))
                .collect();
            expected.sort_unstable();
            assert_eq!(seen, expected, "in steps of {step}");
        }
    }
}
