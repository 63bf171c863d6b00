//! [`Readahead`]: what a reader will probably want next.
//!
//! A pure state machine fed with what is read. A blob holds many files and many readers, so it follows several streams
//! at once. It brings two kinds of things:
//!
//! - *around* a read that nothing foretold: the rest of the aligned window it lies in. Files of one directory lie side
//!   by side, and a program that starts reads many of them, one after the other: over a link on which a round trip takes
//!   as long as half a megabyte, each miss that this spares is worth more than the bytes it may waste;
//! - *ahead* of a sequential reader: never further than the stream has been read in sequence, so that a wrong guess
//!   at most doubles what is fetched.

use std::collections::VecDeque;

use larder_fscache::ObjectRange;

/// Streams that one blob's readahead follows at once; the one unused longest makes way.
pub(crate) const STREAMS_MAX: usize = 8;

/// How far beyond the end of the last read a read may begin and still continue it: kernels send the pieces of their own
/// read-ahead out of order.
const GAP_BYTES_MAX: u64 = 128 << 10;

/// How far before the end of the last read a read may begin and still belong to it.
const BEHIND_BYTES_MAX: u64 = 512 << 10;

/// How far readahead goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reach {
    /// A stream shorter than this gets none; also the smallest window.
    pub bytes_min: u64,
    /// The largest window.
    pub bytes_max: u64,
    /// Size and alignment of what is brought around a read that nothing foretold; 0 for nothing.
    pub around_bytes: u64,
}

impl Reach {
    /// The window around `range`: at most one window on each side is cut by it.
    fn around(self, range: ObjectRange) -> ObjectRange {
        if self.around_bytes == 0 {
            return range;
        }
        let start = range.start() - range.start() % self.around_bytes;
        let end = range.end().checked_next_multiple_of(self.around_bytes).unwrap_or(u64::MAX);
        ObjectRange::at(start, end - start)
    }
}

#[derive(Clone, Copy, Debug)]
struct Stream {
    /// Where the next read is expected.
    next: u64,
    /// Bytes read in sequence so far, less what random reads have eaten of our confidence.
    run: u64,
    /// Up to where bytes were asked for.
    ahead: u64,
}

/// The streams of one blob.
#[derive(Debug)]
pub(crate) struct Readahead {
    size: u64,
    /// Most recent first.
    streams: VecDeque<Stream>,
}

impl Readahead {
    /// Starts without a stream, for an object of `size` bytes.
    pub fn new(size: u64) -> Self {
        Self { size, streams: VecDeque::with_capacity(STREAMS_MAX) }
    }

    /// Takes note of a read and returns what should be brought ahead of the next one.
    pub fn read(&mut self, range: ObjectRange, reach: Reach) -> Option<ObjectRange> {
        let Some(found) = self.streams.iter().position(|stream| stream.continues(range)) else {
            return self.begin(range, reach);
        };
        let mut stream = self.streams.remove(found)?;
        let ahead = stream.advance(range).then(|| stream.reach_out(reach, self.size)).flatten();
        self.streams.push_front(stream);
        ahead
    }

    /// Offsets at which a read of *present* bytes should be told to [`Readahead::read`] as well, so that a reader who
    /// never misses does not run into the end of its window. One for each stream; `u64::MAX` stands for none.
    pub fn marks(&self) -> [u64; STREAMS_MAX] {
        let mut marks = [u64::MAX; STREAMS_MAX];
        for (mark, stream) in marks.iter_mut().zip(&self.streams) {
            if stream.ahead > stream.next && stream.ahead < self.size {
                *mark = stream.ahead - (stream.ahead - stream.next) / 2;
            }
        }
        marks
    }

    fn begin(&mut self, range: ObjectRange, reach: Reach) -> Option<ObjectRange> {
        for stream in &mut self.streams {
            stream.run -= stream.run / 4;
        }
        self.streams.truncate(STREAMS_MAX - 1);
        let around = reach.around(range).clamp_to(self.size);
        let ahead = around.end().max(range.end());
        self.streams.push_front(Stream { next: range.end(), run: range.len(), ahead });
        (around != range.clamp_to(self.size)).then_some(around)
    }
}

impl Stream {
    fn continues(&self, range: ObjectRange) -> bool {
        let from = self.next.saturating_sub(BEHIND_BYTES_MAX);
        let until = self.next.saturating_add(GAP_BYTES_MAX).max(self.ahead);
        (from..=until).contains(&range.start())
    }

    /// Whether the read went on (rather than repeat what was read).
    ///
    /// Reads of bytes that were brought ahead are not all told of: one that begins among them stands for those before
    /// it as well.
    fn advance(&mut self, range: ObjectRange) -> bool {
        let step = range.end().saturating_sub(self.next);
        let fresh = if range.start() <= self.ahead { step } else { step.min(range.len()) };
        self.next = self.next.max(range.end());
        self.ahead = self.ahead.max(self.next);
        self.run = self.run.saturating_add(fresh);
        fresh > 0
    }

    /// Moves the window on once half of it has been used up.
    fn reach_out(&mut self, reach: Reach, size: u64) -> Option<ObjectRange> {
        if self.run < reach.bytes_min {
            return self.reach_around(reach, size);
        }
        let window = self.run.min(reach.bytes_max);
        if self.ahead - self.next > window / 2 {
            return None;
        }
        let range = ObjectRange::new(self.ahead, self.next.saturating_add(window))?.clamp_to(size);
        if range.is_empty() {
            return None;
        }
        self.ahead = range.end();
        Some(range)
    }

    /// A short run that has come out of its window gets the rest of the next.
    fn reach_around(&mut self, reach: Reach, size: u64) -> Option<ObjectRange> {
        if self.ahead > self.next {
            return None;
        }
        let end = reach.around(ObjectRange::at(self.next, 0)).end().min(size);
        let rest = ObjectRange::new(self.next, end).filter(|rest| !rest.is_empty())?;
        self.ahead = end;
        Some(rest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    const REACH: Reach = Reach { bytes_min: 256 * KIB, bytes_max: 8 * MIB, around_bytes: 0 };

    fn at(start: u64, len: u64) -> ObjectRange {
        ObjectRange::at(start, len)
    }

    proptest! {
        /// However large the reads are and wherever they begin.
        #[test]
        fn the_window_of_any_sequential_reader_grows_to_its_limit_and_never_outruns_what_was_read(
            begin in 0u64..1 << 40,
            lens in prop::collection::vec(1u64..2 * MIB, 200..300),
        ) {
            let mut ahead = Readahead::new(1 << 50);
            let (mut next, mut reached, mut largest, mut before) = (begin, begin, 0, 0);
            for len in lens {
                let more = ahead.read(at(next, len), REACH);
                next += len;
                reached = reached.max(next);
                if let Some(more) = more {
                    prop_assert_eq!(more.start(), reached, "no gap and nothing twice");
                    reached = more.end();
                    let window = reached - next;
                    prop_assert!(window <= REACH.bytes_max && window <= next - begin, "{window}");
                    prop_assert!(window >= before, "it shrank from {before} to {window}");
                    before = window;
                    largest = largest.max(window);
                }
            }
            prop_assert_eq!(largest, REACH.bytes_max, "200 reads of a megabyte each are enough");
        }

        /// A quarter of the confidence for each read that nothing foretold.
        #[test]
        fn random_reads_shrink_the_window_of_any_stream(run in 8u64..200, random in 1u32..7) {
            let mut ahead = Readahead::new(1 << 50);
            for n in 0..run {
                ahead.read(at(n * 128 * KIB, 128 * KIB), REACH);
            }
            let before = ahead.streams[0].run;
            for n in 1..=random {
                prop_assert_eq!(ahead.read(at(u64::from(n) << 40, 4 * KIB), REACH), None);
            }
            let kept = ahead.streams.iter().find(|stream| stream.next == run * 128 * KIB);
            let kept = kept.expect("it is still followed").run;
            let expected = (0..random).fold(before, |run, _| run - run / 4);
            prop_assert_eq!(kept, expected);
            prop_assert!(kept < before);
        }

        /// Any reads at all: what is brought ahead lies inside the object and is never more than the largest window.
        #[test]
        fn whatever_is_read_what_is_brought_ahead_is_bounded(
            size in 1u64..64 * MIB,
            reads in prop::collection::vec((0u64..64 * MIB, 1u64..MIB), 1..200),
            around_bytes in prop::sample::select(vec![0, 512 * KIB]),
        ) {
            let reach = Reach { around_bytes, ..REACH };
            let mut ahead = Readahead::new(size);
            for (start, len) in reads {
                let range = at(start, len).clamp_to(size);
                if range.is_empty() {
                    continue;
                }
                if let Some(more) = ahead.read(range, reach) {
                    prop_assert!(!more.is_empty() && more.end() <= size);
                    prop_assert!(more.len() <= reach.bytes_max + range.len() + 2 * around_bytes);
                }
                prop_assert!(ahead.streams.len() <= STREAMS_MAX);
            }
        }
    }

    #[test]
    fn the_window_grows_as_a_reader_goes_on_in_sequence_up_to_its_limit() {
        let mut ahead = Readahead::new(1 << 30);
        let mut end = 0;
        let mut largest = 0;
        for n in 0..256 {
            let range = at(n * 128 * KIB, 128 * KIB);
            if let Some(more) = ahead.read(range, REACH) {
                assert_eq!(more.start(), end.max(range.end()), "no gap and nothing twice");
                end = more.end();
                largest = largest.max(end - range.end());
                assert!(end - range.end() <= range.end(), "never further ahead than was read");
            }
        }
        assert_eq!(largest, 8 * MIB);
    }

    #[test]
    fn the_first_read_and_a_short_run_get_none() {
        let mut ahead = Readahead::new(1 << 30);
        assert_eq!(ahead.read(at(0, MIB), REACH), None);
        let mut ahead = Readahead::new(1 << 30);
        for n in 0..15 {
            assert_eq!(ahead.read(at(n * 16 * KIB, 16 * KIB), REACH), None, "read {n}");
        }
        assert!(ahead.read(at(15 * 16 * KIB, 16 * KIB), REACH).is_some());
    }

    #[test]
    fn a_read_that_nothing_foretold_gets_the_rest_of_its_window() {
        let reach = Reach { around_bytes: 512 * KIB, ..REACH };
        let mut ahead = Readahead::new(10 * MIB + 5);
        assert_eq!(ahead.read(at(3 * MIB + 64 * KIB, 64 * KIB), reach), Some(at(3 * MIB, 512 * KIB)));
        assert_eq!(ahead.read(at(3 * MIB + 256 * KIB, 64 * KIB), reach), None, "that was brought");
        assert_eq!(ahead.read(at(8 * MIB - 64 * KIB, 128 * KIB), reach), Some(at(8 * MIB - 512 * KIB, MIB)));
        assert_eq!(ahead.read(at(10 * MIB, 5), reach), None, "the last window holds nothing else");
    }

    #[test]
    fn a_reader_that_goes_on_from_its_window_is_a_sequential_one() {
        let reach = Reach { around_bytes: 512 * KIB, ..REACH };
        let mut ahead = Readahead::new(1 << 30);
        assert_eq!(ahead.read(at(0, 64 * KIB), reach), Some(at(0, 512 * KIB)));
        let mark = ahead.marks()[0];
        assert!(mark < 512 * KIB, "present bytes in the window are listened to");
        assert_eq!(ahead.read(at(mark, 64 * KIB), reach).map(|more| more.start()), Some(512 * KIB));
        assert_eq!(ahead.streams.len(), 1);
    }

    #[test]
    fn random_reads_get_none() {
        let mut ahead = Readahead::new(1 << 30);
        for n in 0..1000_u64 {
            let start = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 1024 * MIB;
            assert_eq!(ahead.read(at(start, 4 * KIB), REACH), None);
        }
    }

    #[test]
    fn random_reads_shrink_the_window_of_a_stream() {
        let mut ahead = Readahead::new(1 << 40);
        for n in 0..64 {
            ahead.read(at(n * 128 * KIB, 128 * KIB), REACH);
        }
        let before = ahead.streams[0];
        for n in 1..6 {
            ahead.read(at(n << 32, 4 * KIB), REACH);
        }
        let resumed = ahead.streams.iter().find(|s| s.next == before.next).expect("it is still followed");
        assert!(resumed.run < before.run / 3);
    }

    #[test]
    fn several_streams_are_followed_side_by_side() {
        let mut ahead = Readahead::new(1 << 40);
        let mut served = [0; 4];
        for n in 0..32 {
            for (who, count) in (0_u64..).zip(&mut served) {
                let start = (who << 32) + n * 128 * KIB;
                *count += u32::from(ahead.read(at(start, 128 * KIB), REACH).is_some());
            }
        }
        assert!(served.iter().all(|count| *count > 3), "{served:?}");
    }

    #[test]
    fn pieces_out_of_order_stay_one_stream() {
        let mut ahead = Readahead::new(1 << 30);
        for n in [0, 2, 1, 4, 3, 6, 5, 7] {
            ahead.read(at(n * 128 * KIB, 128 * KIB), REACH);
        }
        assert_eq!(ahead.streams.len(), 1);
        assert_eq!(ahead.streams[0].next, MIB);
    }

    #[test]
    fn many_readers_of_one_range_are_one_read() {
        let mut ahead = Readahead::new(1 << 30);
        for _ in 0..64 {
            assert_eq!(ahead.read(at(0, 256 * KIB), REACH), None);
        }
        assert_eq!(ahead.streams[0].run, 256 * KIB);
    }

    #[test]
    fn it_ends_where_the_object_ends() {
        let mut ahead = Readahead::new(640 * KIB + 1);
        ahead.read(at(0, 256 * KIB), REACH);
        assert_eq!(ahead.read(at(256 * KIB, 256 * KIB), REACH), Some(at(512 * KIB, 128 * KIB + 1)));
        assert_eq!(ahead.read(at(512 * KIB, 128 * KIB + 1), REACH), None);
        assert_eq!(ahead.marks(), [u64::MAX; STREAMS_MAX]);
    }

    #[test]
    fn a_reader_of_present_bytes_meets_the_mark_before_the_window_ends() {
        let mut ahead = Readahead::new(1 << 30);
        ahead.read(at(0, 256 * KIB), REACH);
        let window = ahead.read(at(256 * KIB, 256 * KIB), REACH).expect("a run of 512 KiB");
        let mark = ahead.marks()[0];
        assert!(window.start() < mark && mark < window.end());
        let moved = ahead.read(at(mark, 4 * KIB), REACH).expect("the window moves on there");
        assert_eq!(moved.start(), window.end());
        assert!(moved.end() - mark > window.len(), "and grows, since all before it was read too");
    }
}
