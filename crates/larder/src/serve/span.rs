//! [`Span`]: the bytes of a blob that a `Range` header asks for.

/// What a request wants of a representation of known length.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Span {
    /// All of it: there is no `Range` header, or one that may be ignored (RFC 9110, 14.2).
    Whole,
    /// The bytes `start..end`, not empty.
    Part {
        /// First byte.
        start: u64,
        /// First byte after the part.
        end: u64,
    },
    /// None of its bytes: 416.
    Outside,
}

impl Span {
    /// Reads the value of a `Range` header for a representation of `len` bytes.
    ///
    /// Other units, lists of ranges and values that are not well formed are ignored, as RFC 9110 allows.
    pub(super) fn parse(value: Option<&str>, len: u64) -> Self {
        let Some(list) = value.and_then(|value| value.trim().strip_prefix("bytes=")) else {
            return Self::Whole;
        };
        let Some((first, last)) = list.trim().split_once('-') else { return Self::Whole };
        match (number(first), number(last)) {
            (Some(first), _) if last.is_empty() => Self::between(first, len, len),
            (Some(first), Some(last)) if first <= last => Self::between(first, last.saturating_add(1), len),
            (None, Some(suffix)) if first.is_empty() => {
                Self::between(len.saturating_sub(suffix), if suffix == 0 { 0 } else { len }, len)
            }
            _ => Self::Whole,
        }
    }

    fn between(start: u64, end: u64, len: u64) -> Self {
        let end = end.min(len);
        if start < end { Self::Part { start, end } } else { Self::Outside }
    }
}

/// Digits only: no sign, no space.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_of_bytes_is_taken_and_all_else_is_ignored() {
        let part = |start, end| Span::Part { start, end };
        for (value, expected) in [
            ("bytes=0-0", part(0, 1)),
            ("bytes=0-99", part(0, 100)),
            ("bytes=0-18446744073709551615", part(0, 100)),
            ("bytes=99-", part(99, 100)),
            ("bytes=10-19", part(10, 20)),
            ("bytes=-10", part(90, 100)),
            ("bytes=-1000", part(0, 100)),
            ("bytes=-0", Span::Outside),
            ("bytes=100-", Span::Outside),
            ("bytes=100-200", Span::Outside),
            ("bytes=5-4", Span::Whole),
            ("bytes=", Span::Whole),
            ("bytes=-", Span::Whole),
            ("bytes=a-b", Span::Whole),
            ("bytes=+1-2", Span::Whole),
            ("bytes=0-1,5-6", Span::Whole),
            ("bytes=99999999999999999999-", Span::Whole),
            ("lines=0-1", Span::Whole),
        ] {
            assert_eq!(Span::parse(Some(value), 100), expected, "{value}");
        }
        assert_eq!(Span::parse(None, 100), Span::Whole);
        assert_eq!(Span::parse(Some("bytes=0-"), 0), Span::Outside);
    }
}
