//! What a read of the group returns: events with records, parsed from bytes.
//!
//! Layout: include/uapi/linux/fanotify.h (v7.3). Unknown records and unknown events are passed over; a length that
//! does not fit ends the parse, since nothing after it can be trusted.

use std::os::fd::RawFd;

use larder_fscache::ObjectRange;

use crate::sys::fanotify::{FAN_PRE_ACCESS, FAN_Q_OVERFLOW};

const METADATA_BYTES: usize = 24;
const RECORD_HEADER_BYTES: usize = 4;
const VERSION: u8 = 3;
const INFO_TYPE_RANGE: u8 = 6;

/// One event, as the kernel tells it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Event {
    /// A reader waits for an answer.
    Access(Access),
    /// A reader was refused by the kernel: no descriptor could be made for it. The number is the errno.
    Refused(i32),
    /// The queue was full: an access was allowed unasked.
    Overflow,
    /// Something that nobody asked for.
    Other(u64),
}

/// A reader's question.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Access {
    /// The event descriptor; its number is the question's name.
    pub(super) fd: RawFd,
    /// The process that reads.
    pub(super) pid: u32,
    /// What it is about to read; the whole file when the kernel does not say. Rounded out to pages, also past the end.
    pub(super) range: ObjectRange,
}

/// Why the rest of a buffer cannot be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("fanotify event of version {0}")]
    Version(u8),
    #[error("fanotify event of {0} bytes in a buffer that has fewer")]
    Length(u32),
    #[error("fanotify record of {0} bytes")]
    Record(u16),
}

/// The events in `bytes`, in order; ends after the first malformed one.
pub(super) fn parse(bytes: &[u8]) -> impl Iterator<Item = Result<Event, Malformed>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (event, after) = match split(rest) {
            Ok((event, after)) => (read(event), after),
            Err(error) => (Err(error), &[][..]),
        };
        rest = if event.is_ok() { after } else { &[] };
        Some(event)
    })
}

/// Splits the first event off.
fn split(bytes: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let length = u32_at(bytes, 0).unwrap_or(0);
    let fits = usize::try_from(length).ok().filter(|&n| n >= METADATA_BYTES && n <= bytes.len());
    fits.map(|n| bytes.split_at(n)).ok_or(Malformed::Length(length))
}

fn read(event: &[u8]) -> Result<Event, Malformed> {
    let version = event.get(4).copied().unwrap_or(0);
    if version != VERSION {
        return Err(Malformed::Version(version));
    }
    let mask = u64_at(event, 8).unwrap_or(0);
    let fd = u32_at(event, 16).unwrap_or(u32::MAX).cast_signed();
    if mask & FAN_Q_OVERFLOW != 0 {
        return Ok(Event::Overflow);
    }
    if mask & FAN_PRE_ACCESS == 0 {
        return Ok(Event::Other(mask));
    }
    if fd < 0 {
        return Ok(Event::Refused(fd.saturating_neg()));
    }
    let records = usize::from(u16_at(event, 6).unwrap_or(0)).max(METADATA_BYTES);
    let range = find_range(event.get(records..).unwrap_or(&[]))?;
    Ok(Event::Access(Access { fd, pid: u32_at(event, 20).unwrap_or(0), range }))
}

/// Looks for the range record; without one the whole file is meant.
fn find_range(mut records: &[u8]) -> Result<ObjectRange, Malformed> {
    while records.len() >= RECORD_HEADER_BYTES {
        let length = u16_at(records, 2).unwrap_or(0);
        let fits = usize::from(length);
        let record =
            records.get(..fits).filter(|_| fits >= RECORD_HEADER_BYTES).ok_or(Malformed::Record(length))?;
        if let (Some(&INFO_TYPE_RANGE), Some(offset), Some(count)) =
            (record.first(), u64_at(record, 8), u64_at(record, 16))
        {
            return Ok(ObjectRange::at(offset, count));
        }
        records = records.get(fits..).unwrap_or(&[]);
    }
    Ok(ObjectRange::at(0, u64::MAX))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(mask: u64, fd: i32, records: &[u8]) -> Vec<u8> {
        let length = u32::try_from(METADATA_BYTES + records.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend([VERSION, 0]);
        bytes.extend(24_u16.to_ne_bytes());
        bytes.extend(mask.to_ne_bytes());
        bytes.extend(fd.to_ne_bytes());
        bytes.extend(42_i32.to_ne_bytes());
        bytes.extend(records);
        bytes
    }

    fn range_record(offset: u64, count: u64) -> Vec<u8> {
        let mut bytes = vec![INFO_TYPE_RANGE, 0];
        bytes.extend(24_u16.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(offset.to_ne_bytes());
        bytes.extend(count.to_ne_bytes());
        bytes
    }

    fn access(fd: i32, range: ObjectRange) -> Result<Event, Malformed> {
        Ok(Event::Access(Access { fd, pid: 42, range }))
    }

    #[test]
    fn every_whole_event_of_a_buffer_is_told_in_order() {
        let unknown_record = [9, 0, 8, 0, 1, 2, 3, 4];
        let mut bytes = event(FAN_PRE_ACCESS, 7, &range_record(4096, 8192));
        bytes.extend(event(FAN_PRE_ACCESS, 8, &[&unknown_record[..], &range_record(0, 1)].concat()));
        bytes.extend(event(FAN_PRE_ACCESS, 9, &[]));
        bytes.extend(event(FAN_Q_OVERFLOW, -1, &[]));
        bytes.extend(event(FAN_PRE_ACCESS, -24, &[]));
        bytes.extend(event(1, -1, &[]));
        let got: Vec<_> = parse(&bytes).collect();
        let expected = [
            access(7, ObjectRange::at(4096, 8192)),
            access(8, ObjectRange::at(0, 1)),
            access(9, ObjectRange::at(0, u64::MAX)),
            Ok(Event::Overflow),
            Ok(Event::Refused(24)),
            Ok(Event::Other(1)),
        ];
        assert_eq!(got, expected);
    }

    #[test]
    fn a_length_that_does_not_fit_ends_the_parse() {
        let good = event(FAN_PRE_ACCESS, 7, &range_record(0, 1));
        for (at, value, expected) in [
            (0, 23, Malformed::Length(23)),
            (0, 200, Malformed::Length(200)),
            (4, 4, Malformed::Version(4)),
            (26, 3, Malformed::Record(3)),
            (26, 25, Malformed::Record(25)),
        ] {
            let mut bad = good.clone();
            bad[at] = value;
            bad.extend(&good);
            if at == 0 && value == 200 {
                bad.truncate(60);
            }
            assert_eq!(parse(&bad).collect::<Vec<_>>(), [Err(expected)]);
        }
    }

    #[test]
    fn any_bytes_are_parsed_without_panic_and_to_an_end() {
        let mut state = 1_u64;
        for length in 0..400 {
            let bytes: Vec<u8> = (0..length)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (state >> 60).to_le_bytes()[0]
                })
                .collect();
            assert!(parse(&bytes).count() <= bytes.len() / METADATA_BYTES + 1);
        }
    }
}
