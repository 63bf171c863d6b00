//! [`Readahead`]: how much to ask for beyond what was asked.
//!
//! As in the kernel (mm/readahead.c): the window of a reader that goes on where it stopped doubles; a reader that
//! jumps gets what it asked for, rounded to the cache's granule. The next window is begun while the last is being read.

use larder_fscache::ObjectRange;

/// Questions arrive a little out of order: what is this near to where the reader was still goes on from there.
const NEAR_BYTES: u64 = 4 << 20;

/// How much of a file to ask for, seen over one reader's questions. Plain data.
#[derive(Clone, Copy, Debug)]
pub struct Readahead {
    granule: u64,
    first: u64,
    max: u64,
    window: u64,
    /// End of the furthest question of the present run.
    next: u64,
    /// End of what was asked for ahead.
    ahead: u64,
}

/// What to ask for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Plan {
    /// The range, at least the one that was asked about, within the file.
    pub range: ObjectRange,
}

impl Readahead {
    /// Windows of `first` to `max` bytes, on multiples of `granule`, none of them zero.
    pub fn new(granule: u64, first: u64, max: u64) -> Self {
        let first = first.max(granule);
        Self { granule, first, max: max.max(first), window: 0, next: 0, ahead: 0 }
    }

    /// A question for bytes that are neither here nor on their way: what to ask the far side for.
    pub fn miss(&mut self, want: ObjectRange, size: u64) -> Plan {
        let goes_on = self.is_near(want);
        self.window = match (goes_on, self.window) {
            (false, _) => 0,
            (true, 0) => self.first,
            (true, window) => (window * 2).min(self.max),
        };
        self.next = want.end();
        let plan = self.plan(want.start(), want.end().max(want.start().saturating_add(self.window)), size);
        self.ahead = plan.range.end();
        plan
    }

    /// A question for bytes that are here or on their way: what to ask for next, if it is time to.
    pub fn hit(&mut self, want: ObjectRange, size: u64) -> Option<Plan> {
        if !self.is_near(want) {
            // The reader has jumped to what is here: a new run may begin there.
            (self.window, self.next, self.ahead) = (0, want.end(), 0);
            return None;
        }
        self.next = self.next.max(want.end());
        let is_time = self.window > 0
            && self.ahead < size
            && self.ahead > want.start()
            && self.ahead.saturating_sub(want.end()) <= self.window / 2;
        if !is_time {
            return None;
        }
        self.window = (self.window * 2).min(self.max);
        let plan = self.plan(self.ahead, self.ahead.saturating_add(self.window), size);
        self.ahead = plan.range.end();
        Some(plan)
    }

    fn is_near(&self, want: ObjectRange) -> bool {
        want.start() <= self.next.saturating_add(NEAR_BYTES.min(self.window.max(self.granule)))
            && want.end().saturating_add(NEAR_BYTES) >= self.next
    }

    fn plan(&self, start: u64, end: u64, size: u64) -> Plan {
        let down = start - start % self.granule;
        let up = end.checked_next_multiple_of(self.granule).unwrap_or(u64::MAX);
        Plan { range: ObjectRange::at(down, up.saturating_sub(down)).clamp_to(size) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const K: u64 = 1024;

    fn readahead() -> Readahead {
        Readahead::new(64 * K, 512 * K, 8192 * K)
    }

    #[test]
    fn the_window_of_a_sequential_reader_doubles_and_begins_before_it_is_needed() {
        let (mut ahead, size) = (readahead(), 1 << 30);
        let mut asked = vec![ahead.miss(ObjectRange::at(0, 128 * K), size).range];
        for n in 1..400 {
            let want = ObjectRange::at(n * 128 * K, 128 * K);
            assert!(want.end() <= asked.last().expect("one").end(), "the reader never waits for a question");
            asked.extend(ahead.hit(want, size).map(|plan| plan.range));
        }
        let sizes: Vec<u64> = asked.iter().map(|range| range.len() / K).collect();
        assert_eq!(sizes[..6], [512, 1024, 2048, 4096, 8192, 8192]);
        assert!(asked.windows(2).all(|pair| pair[0].end() == pair[1].start()), "without a gap");
    }

    #[test]
    fn a_random_reader_gets_its_granules_and_no_more() {
        let (mut ahead, size) = (readahead(), 1 << 30);
        for at in [500 << 20, 3 << 20, 900 << 20, 40 << 20] {
            let plan = ahead.miss(ObjectRange::at(at + 5, 10), size);
            assert_eq!(plan.range, ObjectRange::at(at, 64 * K));
            assert_eq!(ahead.hit(ObjectRange::at(at + 15, 10), size), None);
        }
    }

    #[test]
    fn a_reader_that_jumps_begins_small_again() {
        let (mut ahead, size) = (readahead(), 1 << 30);
        ahead.miss(ObjectRange::at(0, 128 * K), size);
        assert_eq!(ahead.miss(ObjectRange::at(1 << 29, 4 * K), size).range.len(), 64 * K);
        assert_eq!(ahead.miss(ObjectRange::at((1 << 29) + 64 * K, 4 * K), size).range.len(), 512 * K);
    }

    proptest! {
        #[test]
        fn a_plan_covers_the_question_and_stays_within_the_file(
            size in 1u64..100_000_000,
            asks in proptest::collection::vec((any::<u64>(), 1u64..2_000_000, any::<bool>()), 1..50),
        ) {
            let mut ahead = readahead();
            for (at, len, missed) in asks {
                let want = ObjectRange::at(at % size, len).clamp_to(size);
                let plan = if missed { Some(ahead.miss(want, size)) } else { ahead.hit(want, size) };
                if let Some(Plan { range }) = plan {
                    prop_assert!(range.end() <= size && !range.is_empty());
                    prop_assert!(range.len() <= want.len() + 8192 * K + 2 * 64 * K);
                    prop_assert!(!missed || (range.start() <= want.start() && want.end() <= range.end()));
                }
            }
        }
    }
}
