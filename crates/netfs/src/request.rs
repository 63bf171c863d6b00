//! [`Request`]: one window of a file, cut into slices. The counterpart of `struct netfs_io_request`.
//!
//! Source of truth: `netfs_rreq_submit_slice()`, `netfs_rreq_assess()` and `netfs_rreq_unlock_folios()` (fs/netfs,
//! v6.1). An error of one slice fails the bytes of that slice only.

use larder_fscache::{Decision, IoSource, ObjectRange, ReadFlags};

use crate::{Next, State, Subrequest, Terminated};

/// One window of a file, cut into slices. Plain data: it says what to do, others do it.
#[derive(Clone, Debug)]
pub struct Request {
    range: ObjectRange,
    /// Longest download, in bytes: `rsize`.
    download_bytes_max: u64,
    submitted: u64,
    slices: Vec<Subrequest>,
    outstanding: usize,
    is_invalid: bool,
}

/// What became of a part of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Part {
    /// Its bytes are here.
    Ready(ObjectRange),
    /// They will not come.
    Failed(ObjectRange),
}

impl Request {
    /// A request for `range`, which lies within the file.
    pub fn new(range: ObjectRange, download_bytes_max: u64) -> Self {
        let submitted = range.start();
        let download_bytes_max = download_bytes_max.max(1);
        Self { range, download_bytes_max, submitted, slices: Vec::new(), outstanding: 0, is_invalid: false }
    }

    /// What it is for.
    pub fn range(&self) -> ObjectRange {
        self.range
    }

    /// The slices cut so far, in order and without a gap.
    pub fn slices(&self) -> &[Subrequest] {
        &self.slices
    }

    /// How many slices have been asked for and have not ended.
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Cuts the next slice as `decide` says, and returns its number; `None` when all of it is cut.
    ///
    /// An answer that means nothing ends the cutting: what is left fails.
    pub fn prepare(&mut self, decide: impl FnOnce(ObjectRange) -> Decision) -> Option<usize> {
        let want = ObjectRange::new(self.submitted, self.range.end()).filter(|left| !left.is_empty())?;
        let decision = decide(want);
        let longest = match decision.source {
            IoSource::DownloadFromServer => self.download_bytes_max,
            _ => u64::MAX,
        };
        let len = decision.range.len().min(longest).min(want.len());
        if decision.source == IoSource::InvalidRead || len == 0 || decision.range.start() != want.start() {
            self.submitted = self.range.end();
            self.is_invalid = true;
            return None;
        }
        self.submitted += len;
        let copies = decision.flags.contains(ReadFlags::COPY_TO_CACHE);
        self.slices.push(Subrequest::new(ObjectRange::at(want.start(), len), decision.source, copies));
        Some(self.slices.len() - 1)
    }

    /// Says that the rest of a slice has been asked for, and returns where it is to come from and which bytes.
    pub fn issue(&mut self, slice: usize) -> (IoSource, ObjectRange) {
        self.slices[slice].issue();
        self.outstanding += 1;
        (self.slices[slice].source(), self.slices[slice].rest())
    }

    /// Takes note of how an attempt at a slice ended, and says what comes next for it.
    pub fn terminated(&mut self, slice: usize, how: Terminated) -> Next {
        self.outstanding -= 1;
        self.slices[slice].terminated(how)
    }

    /// Says what became of every part, in order, neighbours of one fate as one; to be asked when nothing is outstanding.
    ///
    /// # Panics
    ///
    /// When something still is.
    pub fn assess(&self) -> Vec<Part> {
        assert_eq!(self.outstanding, 0, "assessed once, at the end");
        let mut parts: Vec<Part> = Vec::new();
        let mut push = |ready: bool, range: ObjectRange| {
            let joined = match (parts.last_mut(), ready) {
                (Some(Part::Ready(last)), true) | (Some(Part::Failed(last)), false) => {
                    *last = ObjectRange::at(last.start(), last.len() + range.len());
                    true
                }
                _ => false,
            };
            if !joined && !range.is_empty() {
                parts.push(if ready { Part::Ready(range) } else { Part::Failed(range) });
            }
        };
        let mut end = self.range.start();
        for slice in &self.slices {
            let rest = slice.rest();
            let done = ObjectRange::at(slice.range().start(), slice.range().len() - rest.len());
            if !done.is_empty() {
                push(true, done);
            }
            push(slice.state() == State::Done, rest);
            end = slice.range().end();
        }
        push(false, ObjectRange::at(end, self.range.end() - end));
        parts
    }

    /// Whether the cache gave an answer that means nothing.
    pub fn is_invalid(&self) -> bool {
        self.is_invalid
    }
}

#[cfg(test)]
mod tests {
    use larder_fscache::{BlockSize, Probe, Run, decide};
    use proptest::prelude::*;

    use super::*;

    /// A cache that has every block for which `has` is true.
    fn decision(has: &[bool], size: u64, want: ObjectRange) -> Decision {
        let block = |at: u64| usize::try_from(at / 4096).expect("small");
        let here = has[block(want.start())];
        let run = has[block(want.start())..].iter().take_while(|found| **found == here).count() as u64;
        let until = ((want.start() / 4096 + run) * 4096).min(size);
        let found = Probe::Map(if here { Run::Present { until } } else { Run::Hole { until } });
        decide(want, size, BlockSize::FOUR_KIB, found, ReadFlags::empty())
    }

    #[test]
    fn a_request_is_cut_where_the_cache_begins_and_ends_and_where_a_download_is_long_enough() {
        let has = [false, false, false, true, false];
        let mut request = Request::new(ObjectRange::at(0, 5 * 4096), 2 * 4096);
        while request.prepare(|want| decision(&has, 5 * 4096, want)).is_some() {}
        let cut: Vec<_> = request
            .slices()
            .iter()
            .map(|slice| (slice.source(), slice.range().start() / 4096, slice.range().len() / 4096))
            .collect();
        use IoSource::{DownloadFromServer as Download, ReadFromCache as Cache};
        assert_eq!(cut, [(Download, 0, 2), (Download, 2, 1), (Cache, 3, 1), (Download, 4, 1)]);
    }

    #[test]
    fn an_answer_that_means_nothing_fails_the_rest_and_not_what_came_before() {
        let mut request = Request::new(ObjectRange::at(0, 8192), 4096);
        let first = request.prepare(|want| decision(&[false, false], 8192, want)).expect("a slice");
        let invalid = Decision {
            source: IoSource::InvalidRead,
            range: ObjectRange::at(4096, 0),
            ..decision(&[true, true], 8192, ObjectRange::at(4096, 4096))
        };
        assert_eq!(request.prepare(|_| invalid), None);
        assert_eq!(request.prepare(|_| unreachable!("it is over")), None);
        request.issue(first);
        assert_eq!(request.terminated(first, Terminated::Bytes(4096)), Next::Done);
        let (ready, failed) = (ObjectRange::at(0, 4096), ObjectRange::at(4096, 4096));
        assert_eq!(request.assess(), [Part::Ready(ready), Part::Failed(failed)]);
        assert!(request.is_invalid());
    }

    proptest! {
        /// Whatever the cache has and however each attempt ends: the parts cover the request once, and what is ready
        /// is exactly what has come.
        #[test]
        fn parts_cover_the_request_and_are_ready_exactly_where_bytes_came(
            has in proptest::collection::vec(any::<bool>(), 1..40),
            tail in 0u64..4096,
            longest in 1u64..40_000,
            ends in proptest::collection::vec((any::<u64>(), 0u8..4), 400),
            start in any::<u64>(),
        ) {
            let size = has.len() as u64 * 4096 - tail;
            let start = start % size;
            let mut request = Request::new(ObjectRange::at(start, size - start), longest);
            let mut came = vec![false; usize::try_from(size).expect("small")];
            let mut ends = ends.into_iter().cycle();
            while let Some(slice) = request.prepare(|want| decision(&has, size, want)) {
                loop {
                    let (_, rest) = request.issue(slice);
                    let (bytes, how) = ends.next().expect("endless");
                    let bytes = if how == 0 { rest.len() } else { bytes % (rest.len() + 1) };
                    for at in rest.start()..rest.start() + bytes {
                        came[usize::try_from(at).expect("small")] = true;
                    }
                    let how = if how == 1 { Terminated::Error(bytes) } else { Terminated::Bytes(bytes) };
                    if request.terminated(slice, how) != Next::Again {
                        break;
                    }
                }
            }
            let mut at = start;
            for part in request.assess() {
                let (range, ready) = match part {
                    Part::Ready(range) => (range, true),
                    Part::Failed(range) => (range, false),
                };
                prop_assert_eq!(range.start(), at);
                prop_assert!(!range.is_empty());
                for byte in range.start()..range.end() {
                    prop_assert_eq!(came[usize::try_from(byte).expect("small")], ready);
                }
                at = range.end();
            }
            prop_assert_eq!(at, size);
        }
    }
}
