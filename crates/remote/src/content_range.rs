//! `Content-Range`: RFC 9110, section 14.4, read strictly.

use crate::BlobRange;

/// What a 206 says it carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct ContentRange {
    pub range: BlobRange,
    /// Length of the whole, unless the server does not know it.
    pub total: Option<u64>,
}

impl ContentRange {
    /// Reads `bytes FIRST-LAST/TOTAL` or `bytes FIRST-LAST/*`; anything else is `None`.
    pub(crate) fn parse(value: &str) -> Option<Self> {
        let (unit, rest) = value.split_once(' ')?;
        if !unit.eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (range, total) = rest.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let range = BlobRange::new(number(first)?, number(last)?.checked_add(1)?)?;
        let total = if total == "*" { None } else { Some(number(total)?) };
        let sound = !range.is_empty() && total.is_none_or(|total| range.end() <= total);
        sound.then_some(Self { range, total })
    }

    /// Whether this is the answer to a request for `range` of a blob of `len` bytes.
    pub(crate) fn answers(self, range: BlobRange, len: u64) -> bool {
        self.range == range && self.total.is_none_or(|total| total == len)
    }
}

/// Reads digits and nothing else: no sign, no space.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sound_values_are_read() {
        let at = |start, end| BlobRange::new(start, end).expect("forwards");
        for (text, range, total) in [
            ("bytes 0-0/1", at(0, 1), Some(1)),
            ("bytes 5-9/100", at(5, 10), Some(100)),
            ("Bytes 5-9/*", at(5, 10), None),
            ("bytes 0-18446744073709551613/*", at(0, u64::MAX - 1), None),
        ] {
            assert_eq!(ContentRange::parse(text), Some(ContentRange { range, total }), "{text}");
        }
    }

    #[test]
    fn unsound_values_are_refused() {
        for text in [
            "",
            "bytes",
            "bytes 0-9",
            "bytes=0-9/10",
            "items 0-9/10",
            "bytes */10",
            "bytes 9-0/10",
            "bytes 0-10/10",
            "bytes -9/10",
            "bytes 0-/10",
            "bytes +0-9/10",
            "bytes 0 -9/10",
            "bytes  0-9/10",
            "bytes 0-9/10 ",
            "bytes 0-9/-1",
            "bytes 0-9/",
            "bytes 0-18446744073709551615/*",
            "bytes 0-99999999999999999999/*",
        ] {
            assert_eq!(ContentRange::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn an_answer_must_match_range_and_length() {
        let want = BlobRange::new(5, 10).expect("forwards");
        let found = |text| ContentRange::parse(text).expect("sound");
        assert!(found("bytes 5-9/100").answers(want, 100));
        assert!(found("bytes 5-9/*").answers(want, 100));
        assert!(!found("bytes 5-9/101").answers(want, 100));
        assert!(!found("bytes 5-8/100").answers(want, 100));
        assert!(!found("bytes 4-9/100").answers(want, 100));
    }

    proptest::proptest! {
        #[test]
        fn what_a_sound_server_writes_is_read_back(start: u32, len in 1u32.., more: Option<u32>) {
            let range = BlobRange::at(start.into(), len.into()).expect("far from 2^64");
            let total = more.map(|more| range.end() + u64::from(more));
            let shown = total.map_or("*".to_owned(), |total| total.to_string());
            let text = format!("bytes {}-{}/{shown}", range.start(), range.end() - 1);
            assert_eq!(ContentRange::parse(&text), Some(ContentRange { range, total }));
        }

        #[test]
        fn no_text_makes_an_unsound_range(text in "(bytes )?[0-9*/ -]{0,50}") {
            if let Some(found) = ContentRange::parse(&text) {
                assert!(!found.range.is_empty() && found.total.is_none_or(|total| found.range.end() <= total));
            }
        }
    }
}
