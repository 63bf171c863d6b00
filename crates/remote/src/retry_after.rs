//! `Retry-After`: RFC 9110, section 10.2.3.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::{DATE, RETRY_AFTER};

/// Returns the pause that the header names: seconds, or a date. Nonsense counts as absent.
///
/// A date is seen from when the server sent it, by the server's own clock; from `now` where it does not say. So nobody
/// waits for the difference of two clocks.
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    let sent = headers.get(DATE).and_then(|sent| httpdate::parse_http_date(sent.to_str().ok()?).ok());
    Some(date.duration_since(sent.unwrap_or(now)).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_dates_are_understood_and_nonsense_is_not() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let secs = |s| Some(Duration::from_secs(s));
        for (value, expected) in [
            ("120", secs(120)),
            ("0", secs(0)),
            ("99999999999999999999999999", secs(u64::MAX)),
            ("Sun, 06 Nov 1994 08:50:07 GMT", secs(30)),
            ("Sun, 06 Nov 1994 08:49:07 GMT", secs(0)),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, value.parse().expect("a header value"));
            assert_eq!(retry_after(&headers, now), expected, "{value:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    #[test]
    fn p3_a_date_is_seen_from_the_clock_that_it_comes_from() {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, "Sun, 06 Nov 1994 08:50:07 GMT".parse().expect("a header value"));
        headers.insert(DATE, "Sun, 06 Nov 1994 08:50:05 GMT".parse().expect("a header value"));
        for now in [0, 4_102_444_800] {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now);
            assert_eq!(retry_after(&headers, now), Some(Duration::from_secs(2)));
        }
    }
}
