//! [`decide`]: where the first bytes of a read come from, and how far that answer holds.
//!
//! The rows are those of `cachefiles_do_prepare_read()` (fs/cachefiles/io.c, v6.12). There one function
//! probes the file and decides; here the object is probed first ([`Probe`]) and a pure function decides.
//! Row R, which has a hole brought and decides again, is a loop around it
//! ([`CacheResources::prepare_ondemand_read`](crate::CacheResources::prepare_ondemand_read)). Two rules are
//! stricter than the kernel's:
//!
//! - an answer never crosses the end of the object (the kernel rounds it up to a block there), so that
//!   every byte of a `ReadFromCache` answer is a present byte and every byte of a download exists;
//! - an answer of no bytes is always [`IoSource::InvalidRead`]. The kernel's row 9 can shorten a read to
//!   nothing and leaves it to the caller to notice.

use crate::{BlockSize, ObjectRange, ReadFlags};

/// Where the bytes of a read come from: `enum netfs_io_source`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum IoSource {
    /// They lie past the end of the object: zeros.
    FillWithZeroes,
    /// They are not here: somebody has to bring them.
    DownloadFromServer,
    /// They are in the cache.
    ReadFromCache,
    /// The question has no answer; the reader gets an error.
    InvalidRead,
}

/// Why the decision fell so: `enum cachefiles_prepare_read_trace`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Why {
    /// The read starts at or past the end of the object.
    AfterEof,
    /// The whole range is a hole.
    FoundHole,
    /// A hole comes first, data later in the range.
    FoundPart,
    /// Data comes first.
    HaveData,
    /// The object is known to hold nothing.
    NoData,
    /// There is no backing file.
    NoFile,
    /// The backing file could not be probed.
    SeekError,
    /// The hole reaches the end of the object.
    SeekEnxio,
}

/// What the presence map says from one byte on.
///
/// `until` is the first byte that the statement does not cover. It may lie past the range asked about.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Run {
    /// The bytes up to `until` are in the cache.
    Present {
        /// First byte not known to be present.
        until: u64,
    },
    /// The bytes up to `until` are not in the cache.
    Hole {
        /// First byte not known to be missing.
        until: u64,
    },
}

/// What is known about an object when a decision is taken.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Probe {
    /// The presence map was asked.
    Map(Run),
    /// The object is new and nobody has written to it: the cookie flag NO_DATA.
    NoData,
    /// There is no object: the cache was withdrawn, or the look-up failed.
    NoFile,
    /// The object could not be probed.
    Failed,
}

impl From<Run> for Probe {
    fn from(run: Run) -> Self {
        Self::Map(run)
    }
}

/// The answer to a read: source, the part of the range it holds for, and the reason.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Decision {
    /// Where the bytes come from.
    pub source: IoSource,
    /// A prefix of the range asked about; empty only with [`IoSource::InvalidRead`].
    pub range: ObjectRange,
    /// Why it fell so.
    pub why: Why,
    /// The flags of the question, with [`ReadFlags::COPY_TO_CACHE`] where the cache wants the bytes.
    pub flags: ReadFlags,
}

/// Decides where the first bytes of `want` come from, when bytes exist up to `eof`.
///
/// Pure: `found` is what the object says at `want.start()`.
#[inline]
pub fn decide(
    want: ObjectRange,
    eof: u64,
    block: BlockSize,
    found: impl Into<Probe>,
    flags: ReadFlags,
) -> Decision {
    let end_in_object = want.end().min(eof);
    let (source, end, why) = match found.into() {
        _ if want.start() >= eof => (IoSource::FillWithZeroes, want.end(), Why::AfterEof),
        // With ONDEMAND the kernel goes on to the next rows: an object without data has one hole, to its end.
        Probe::NoData if flags.contains(ReadFlags::ONDEMAND) => {
            (IoSource::DownloadFromServer, end_in_object, Why::SeekEnxio)
        }
        Probe::NoData => (IoSource::DownloadFromServer, end_in_object, Why::NoData),
        Probe::NoFile => (IoSource::DownloadFromServer, end_in_object, Why::NoFile),
        Probe::Failed => (IoSource::DownloadFromServer, end_in_object, Why::SeekError),
        Probe::Map(run) => of_map(want, eof, block, run),
    };
    let flags = match why {
        _ if source != IoSource::DownloadFromServer || flags.contains(ReadFlags::ONDEMAND) => flags,
        // No cache to copy to.
        Why::NoFile | Why::SeekError => flags,
        _ => flags | ReadFlags::COPY_TO_CACHE,
    };
    match ObjectRange::new(want.start(), end) {
        Some(range) if !range.is_empty() => Decision { source, range, why, flags },
        _ => Decision { source: IoSource::InvalidRead, range: ObjectRange::at(want.start(), 0), why, flags },
    }
}

#[inline]
fn of_map(want: ObjectRange, eof: u64, block: BlockSize, run: Run) -> (IoSource, u64, Why) {
    let end_in_object = want.end().min(eof);
    match run {
        Run::Hole { until } if until >= eof => (IoSource::DownloadFromServer, end_in_object, Why::SeekEnxio),
        Run::Hole { until } if until >= want.end() => {
            (IoSource::DownloadFromServer, want.end(), Why::FoundHole)
        }
        Run::Hole { until } => {
            // Whole blocks are asked for: the hole is rounded up, over the data, never down.
            let end = if until <= want.start() { until } else { block.round_up(until).unwrap_or(u64::MAX) };
            (IoSource::DownloadFromServer, end.min(end_in_object), Why::FoundPart)
        }
        Run::Present { until } if until >= end_in_object => {
            (IoSource::ReadFromCache, end_in_object, Why::HaveData)
        }
        // A block that is present in part is a hole: rounded down, perhaps to nothing.
        Run::Present { until } => (IoSource::ReadFromCache, block.round_down(until), Why::HaveData),
    }
}

#[cfg(test)]
mod tests {
    use super::IoSource::{DownloadFromServer, FillWithZeroes, InvalidRead, ReadFromCache};
    use super::Run::{Hole, Present};
    use super::Why::{AfterEof, FoundHole, FoundPart, HaveData, NoData, NoFile, SeekEnxio, SeekError};
    use super::*;
    use proptest::prelude::*;

    const BLOCK: BlockSize = BlockSize::FOUR_KIB;
    const K4: u64 = 4096;
    /// An object of ten blocks and a bit.
    const SIZE: u64 = 10 * K4 + 100;

    fn ask(start: u64, end: u64, found: impl Into<Probe>) -> (IoSource, u64, Why) {
        let got = ask_with(start, end, found, ReadFlags::empty());
        (got.source, got.range.end(), got.why)
    }

    fn ask_with(start: u64, end: u64, found: impl Into<Probe>, flags: ReadFlags) -> Decision {
        let want = ObjectRange::new(start, end).expect("forwards");
        let got = decide(want, SIZE, BLOCK, found, flags);
        assert_eq!(got.range.start(), start, "an answer starts where the question does");
        got
    }

    #[test]
    fn row_2_an_object_without_data_is_downloaded_and_copied_to_the_cache() {
        assert_eq!(ask(K4, 3 * K4, Probe::NoData), (DownloadFromServer, 3 * K4, NoData));
        assert_eq!(ask(K4, 99 * K4, Probe::NoData), (DownloadFromServer, SIZE, NoData));
        let got = ask_with(K4, 3 * K4, Probe::NoData, ReadFlags::empty());
        assert_eq!(got.flags, ReadFlags::COPY_TO_CACHE);
    }

    #[test]
    fn row_2_on_demand_an_object_without_data_is_one_hole() {
        let got = ask_with(K4, 3 * K4, Probe::NoData, ReadFlags::ONDEMAND);
        assert_eq!((got.source, got.range.end(), got.why), (DownloadFromServer, 3 * K4, SeekEnxio));
        assert_eq!(got.flags, ReadFlags::ONDEMAND);
    }

    #[test]
    fn row_3_without_an_object_it_is_downloaded_and_not_copied() {
        let got = ask_with(K4, 99 * K4, Probe::NoFile, ReadFlags::empty());
        assert_eq!((got.source, got.range.end(), got.why), (DownloadFromServer, SIZE, NoFile));
        assert_eq!(got.flags, ReadFlags::empty());
    }

    #[test]
    fn rows_5_and_8_an_object_that_cannot_be_probed_is_downloaded_and_not_copied() {
        let got = ask_with(K4, 3 * K4, Probe::Failed, ReadFlags::empty());
        assert_eq!((got.source, got.range.end(), got.why), (DownloadFromServer, 3 * K4, SeekError));
        assert_eq!(got.flags, ReadFlags::empty());
    }

    #[test]
    fn rows_4_6_and_7_want_what_is_downloaded_in_the_cache_unless_it_is_brought_on_demand() {
        for until in [2 * K4, 3 * K4, SIZE] {
            let got = ask_with(K4, 3 * K4, Hole { until }, ReadFlags::SEEK_DATA_READ);
            assert_eq!(got.flags, ReadFlags::SEEK_DATA_READ | ReadFlags::COPY_TO_CACHE);
            let got = ask_with(K4, 3 * K4, Hole { until }, ReadFlags::ONDEMAND);
            assert_eq!(got.flags, ReadFlags::ONDEMAND);
        }
        let got = ask_with(K4, 3 * K4, Present { until: SIZE }, ReadFlags::empty());
        assert_eq!(got.flags, ReadFlags::empty());
    }

    #[test]
    fn row_1_a_read_that_starts_past_the_end_is_zeros() {
        for found in [Hole { until: u64::MAX }, Present { until: u64::MAX }, Hole { until: 0 }] {
            assert_eq!(ask(SIZE, SIZE + 9, found), (FillWithZeroes, SIZE + 9, AfterEof));
        }
    }

    #[test]
    fn row_1_one_byte_before_the_end_is_not_past_it() {
        assert_eq!(ask(SIZE - 1, SIZE + 9, Present { until: SIZE }), (ReadFromCache, SIZE, HaveData));
    }

    #[test]
    fn row_4_a_hole_to_the_end_of_the_object_is_downloaded_up_to_the_end() {
        assert_eq!(ask(K4, 3 * K4, Hole { until: SIZE }), (DownloadFromServer, 3 * K4, SeekEnxio));
        assert_eq!(ask(K4, 99 * K4, Hole { until: u64::MAX }), (DownloadFromServer, SIZE, SeekEnxio));
    }

    #[test]
    fn row_6_a_hole_over_the_whole_range_is_downloaded_whole() {
        assert_eq!(ask(K4, 3 * K4, Hole { until: 3 * K4 }), (DownloadFromServer, 3 * K4, FoundHole));
        assert_eq!(ask(K4, 3 * K4, Hole { until: 5 * K4 }), (DownloadFromServer, 3 * K4, FoundHole));
        assert_eq!(ask(K4 + 1, K4 + 2, Hole { until: 2 * K4 }), (DownloadFromServer, K4 + 2, FoundHole));
    }

    #[test]
    fn row_7_a_hole_before_data_is_downloaded_in_whole_blocks() {
        assert_eq!(ask(K4, 9 * K4, Hole { until: 3 * K4 }), (DownloadFromServer, 3 * K4, FoundPart));
        assert_eq!(ask(K4, 9 * K4, Hole { until: 3 * K4 + 1 }), (DownloadFromServer, 4 * K4, FoundPart));
    }

    #[test]
    fn row_7_rounding_up_stays_inside_the_question_and_the_object() {
        assert_eq!(
            ask(K4, 2 * K4 + 9, Hole { until: 2 * K4 + 1 }),
            (DownloadFromServer, 2 * K4 + 9, FoundPart)
        );
        let last = 10 * K4;
        assert_eq!(ask(last, 12 * K4, Hole { until: last + 1 }), (DownloadFromServer, SIZE, FoundPart));
        let want = ObjectRange::at(0, u64::MAX);
        let got = decide(want, u64::MAX, BLOCK, Hole { until: u64::MAX - 1 }, ReadFlags::empty());
        assert_eq!((got.range, got.why), (want, FoundPart));
    }

    #[test]
    fn row_9_data_before_a_hole_is_read_up_to_the_last_whole_block() {
        assert_eq!(ask(K4, 9 * K4, Present { until: 3 * K4 }), (ReadFromCache, 3 * K4, HaveData));
        assert_eq!(ask(K4, 9 * K4, Present { until: 3 * K4 + 1 }), (ReadFromCache, 3 * K4, HaveData));
    }

    #[test]
    fn row_9_data_up_to_the_end_of_the_object_is_read_with_its_last_partial_block() {
        assert_eq!(ask(K4, 99 * K4, Present { until: SIZE }), (ReadFromCache, SIZE, HaveData));
        assert_eq!(ask(K4, SIZE, Present { until: 11 * K4 }), (ReadFromCache, SIZE, HaveData));
    }

    #[test]
    fn row_9_a_read_shortened_to_nothing_is_an_invalid_read() {
        assert_eq!(ask(K4 + 5, 9 * K4, Present { until: K4 + 9 }), (InvalidRead, K4 + 5, HaveData));
        assert_eq!(ask(K4, 9 * K4, Present { until: K4 }), (InvalidRead, K4, HaveData));
    }

    #[test]
    fn row_10_data_over_the_whole_range_is_read_whole() {
        assert_eq!(ask(K4 + 5, 2 * K4 + 7, Present { until: 3 * K4 }), (ReadFromCache, 2 * K4 + 7, HaveData));
        assert_eq!(ask(K4, 2 * K4, Present { until: 2 * K4 }), (ReadFromCache, 2 * K4, HaveData));
    }

    #[test]
    fn a_question_about_no_bytes_is_an_invalid_read() {
        for at in [0, K4, SIZE, SIZE + 1] {
            for found in [Present { until: u64::MAX }, Hole { until: u64::MAX }, Hole { until: at + 1 }] {
                assert_eq!(ask(at, at, found).0, InvalidRead);
            }
        }
    }

    /// The obviously right version: byte by byte over a `Vec<bool>` of blocks.
    fn naive(map: &[bool], want: ObjectRange, size: u64, block: BlockSize) -> (IoSource, u64) {
        let present = |at: u64| map[usize::try_from(at / block.bytes()).expect("small")];
        if want.is_empty() {
            return (InvalidRead, want.start());
        }
        if want.start() >= size {
            return (FillWithZeroes, want.end());
        }
        let first = present(want.start());
        let mut end = want.start();
        while end < want.end() && end < size && present(end) == first {
            end += 1;
        }
        (if first { ReadFromCache } else { DownloadFromServer }, end)
    }

    proptest! {
        #[test]
        fn decisions_agree_with_a_naive_model(
            bits in 9u8..=11,
            map in proptest::collection::vec(any::<bool>(), 1..12),
            tail in 0u64..512,
            flags in any::<u16>(),
            (from, len) in (0u64..14_000, 0u64..9_000),
        ) {
            let block = BlockSize::from_bits(bits).expect("in range");
            let size = map.len() as u64 * block.bytes() - tail;
            let words = crate::presence::tests::words_of(&map);
            let presence = crate::Presence::new(&words, size, block).expect("enough words");
            let want = ObjectRange::at(from, len);
            for found in [presence.probe(want), presence.probe(ObjectRange::at(from, u64::MAX))] {
                let got = decide(want, size, block, found, ReadFlags::from_bits_truncate(flags));
                prop_assert_eq!((got.source, got.range.end()), naive(&map, want, size, block));
                prop_assert_eq!(got.range.start(), want.start());
                prop_assert_eq!(got.range.is_empty(), got.source == InvalidRead);
            }
        }

        #[test]
        fn whatever_a_backend_claims_no_answer_leaves_the_question_or_the_object(
            from in any::<u64>(), len in any::<u64>(), size in any::<u64>(), until in any::<u64>(),
            hole in any::<bool>(), bits in 9u8..=16, flags in any::<u16>(),
        ) {
            let found = if hole { Hole { until } } else { Present { until } };
            let want = ObjectRange::at(from, len);
            let block = BlockSize::from_bits(bits).expect("in range");
            let got = decide(want, size, block, found, ReadFlags::from_bits_truncate(flags));
            prop_assert!(got.range.start() == want.start() && got.range.end() <= want.end());
            match got.source {
                FillWithZeroes => prop_assert!(want.start() >= size),
                ReadFromCache => prop_assert!(!hole && got.range.end() <= until.min(size)),
                DownloadFromServer => prop_assert!(hole && got.range.end() <= size),
                InvalidRead => prop_assert!(got.range.is_empty()),
            }
        }
    }
}
