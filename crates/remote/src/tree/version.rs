//! [`FileVersion`]: which content of a remote file is meant, and whether an answer carries it.

use std::time::SystemTime;

use ::http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{ETAG, IF_MATCH, IF_UNMODIFIED_SINCE, LAST_MODIFIED},
};

/// Which content of a remote file is meant: what its server says about it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct FileVersion {
    /// Length in bytes.
    pub size: u64,
    /// The entity tag as it came, with its quotes.
    pub etag: Option<String>,
    /// When it was changed, in whole seconds.
    pub modified: Option<SystemTime>,
}

impl FileVersion {
    /// The version that the head of an answer names, for a file of `size` bytes.
    pub(super) fn of(headers: &HeaderMap, size: u64) -> Self {
        Self { size, etag: text(headers, &ETAG).map(str::to_owned), modified: modified(headers) }
    }

    /// Whether another content of the same length would be another version: the server tells more than the length.
    pub fn can_be_told(&self) -> bool {
        self.etag.is_some() || self.modified.is_some()
    }

    /// The condition that makes a server refuse a read of any other content, where it has one.
    ///
    /// A weak entity tag never satisfies `If-Match` (RFC 9110, section 13.1.1), so that the time has to do.
    pub(super) fn condition(&self) -> Option<(HeaderName, HeaderValue)> {
        let strong = self.etag.as_deref().filter(|etag| !is_weak(etag));
        match (strong, self.modified) {
            (Some(etag), _) => Some((IF_MATCH, HeaderValue::from_str(etag).ok()?)),
            (None, Some(time)) => {
                Some((IF_UNMODIFIED_SINCE, HeaderValue::from_str(&httpdate::fmt_http_date(time)).ok()?))
            }
            (None, None) => None,
        }
    }

    /// Whether the head of an answer about `size` bytes in all carries this version: a server may overlook the
    /// condition. What an answer does not say cannot contradict, except an entity tag that it used to have.
    pub(super) fn agrees(&self, headers: &HeaderMap, size: Option<u64>) -> bool {
        let etag = text(headers, &ETAG);
        size.is_none_or(|size| size == self.size)
            && self.etag.as_deref().is_none_or(|expected| etag == Some(expected))
            && modified(headers).is_none_or(|found| self.modified.is_none_or(|expected| expected == found))
    }
}

fn is_weak(etag: &str) -> bool {
    etag.starts_with("W/")
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().filter(|value| !value.is_empty())
}

fn modified(headers: &HeaderMap) -> Option<SystemTime> {
    httpdate::parse_http_date(text(headers, &LAST_MODIFIED)?).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn headers(etag: Option<&str>, modified: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        etag.map(|etag| headers.insert(ETAG, etag.parse().expect("a header")));
        modified.map(|time| headers.insert(LAST_MODIFIED, time.parse().expect("a header")));
        headers
    }

    const THEN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const LATER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    #[test]
    fn the_strongest_condition_that_a_version_allows_is_used() {
        let condition = |etag, time| {
            let condition = FileVersion::of(&headers(etag, time), 1).condition();
            condition.map(|(name, value)| format!("{name}: {}", value.to_str().expect("text")))
        };
        assert_eq!(condition(Some("\"a\""), Some(THEN)).as_deref(), Some("if-match: \"a\""));
        let since = format!("if-unmodified-since: {THEN}");
        assert_eq!(condition(Some("W/\"a\""), Some(THEN)), Some(since.clone()));
        assert_eq!(condition(None, Some(THEN)), Some(since));
        assert_eq!(condition(None, Some("yesterday")), None);
        assert_eq!(condition(Some("W/\"a\""), None), None);
    }

    #[test]
    fn an_answer_that_carries_another_version_does_not_agree() {
        let version = FileVersion::of(&headers(Some("\"a\""), Some(THEN)), 10);
        for (etag, time, size, agrees) in [
            (Some("\"a\""), Some(THEN), Some(10), true),
            (Some("\"a\""), None, None, true),
            (Some("\"b\""), Some(THEN), Some(10), false),
            (None, Some(THEN), Some(10), false),
            (Some("\"a\""), Some(LATER), Some(10), false),
            (Some("\"a\""), Some(THEN), Some(11), false),
        ] {
            assert_eq!(version.agrees(&headers(etag, time), size), agrees, "{etag:?} {time:?} {size:?}");
        }
        let timed = FileVersion { etag: None, ..version };
        assert_eq!(timed.modified, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777)));
        assert!(timed.agrees(&headers(Some("\"new\""), Some(THEN)), Some(10)));
        assert!(!timed.agrees(&headers(None, Some(LATER)), Some(10)));
    }
}
