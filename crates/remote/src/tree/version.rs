//! [`FileVersion`]: which content of a remote file is meant, and whether an answer carries it.

use std::time::{Duration, SystemTime};

use ::http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{AGE, DATE, ETAG, IF_MATCH, IF_UNMODIFIED_SINCE, LAST_MODIFIED, VIA},
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
    /// Whether no other content can have this size, entity tag and time any more.
    ///
    /// One that is not settled is another version than the same settled: none of its bytes may be taken for the other's.
    pub is_settled: bool,
}

/// How much older than the answer a time has to be so that no later change can have it: times are told in whole seconds.
const SETTLES_AFTER: Duration = Duration::from_secs(2);
/// And when a cache in between does not say how old its answer is, whose date may be the cache's own: hardly one keeps for
/// longer what nobody gave a term.
const SETTLES_AFTER_IN_CACHE: Duration = Duration::from_secs(86_400);
/// What caches add to answers, beside `Age` and `Via`.
const CACHE_MARKS: [HeaderName; 2] =
    [HeaderName::from_static("x-cache"), HeaderName::from_static("x-proxy-cache")];
/// Letters and digits in a row of a tag that is a digest: 128 bits in base64. What servers make of lengths and times (nginx,
/// Apache, lighttpd, Caddy) is shorter.
const DIGEST_CHARS_MIN: usize = 22;

impl FileVersion {
    /// The version that the head of an answer names, for a file of `size` bytes.
    pub(super) fn of(headers: &HeaderMap, size: u64) -> Self {
        let (etag, modified) = (text(headers, &ETAG), time(headers, &LAST_MODIFIED));
        let unsettled = unsettled(etag, modified, Made::of(headers));
        if let Some(why) = unsettled {
            tracing::debug!(etag, ?modified, why, "version not settled: not cached");
        }
        Self { size, etag: etag.map(str::to_owned), modified, is_settled: unsettled.is_none() }
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

    /// Whether an answer was made before this version had settled: a cache that asked within the second of a change may keep
    /// other content of the same length, entity tag and time for as long as it likes.
    pub(super) fn settled_after(&self, headers: &HeaderMap) -> bool {
        let (true, Some(modified), Made::At(made)) = (self.is_settled, self.modified, Made::of(headers))
        else {
            return false;
        };
        made.duration_since(modified).map_or(true, |age| age < SETTLES_AFTER)
    }

    /// Whether the head of an answer about `size` bytes in all carries this version: a server may overlook the
    /// condition. What an answer does not say cannot contradict, except an entity tag that it used to have.
    pub(super) fn agrees(&self, headers: &HeaderMap, size: Option<u64>) -> bool {
        let etag = text(headers, &ETAG);
        !self.settled_after(headers)
            && size.is_none_or(|size| size == self.size)
            && self.etag.as_deref().is_none_or(|expected| etag == Some(expected))
            && time(headers, &LAST_MODIFIED)
                .is_none_or(|found| self.modified.is_none_or(|expected| expected == found))
    }
}

/// When the server made an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Made {
    /// At this time, by its clock.
    At(SystemTime),
    /// At this time or before: a cache stands in between that does not say.
    Before(SystemTime),
    Unknown,
}

impl Made {
    fn of(headers: &HeaderMap) -> Self {
        let Some(date) = time(headers, &DATE) else { return Self::Unknown };
        if headers.contains_key(AGE) {
            // RFC 9111, section 5.1. Whether a cache has kept the date or set its own, this is never too late; an age that
            // cannot be read may be any.
            let age = text(headers, &AGE).and_then(|age| age.parse().ok());
            let made = age.and_then(|age| date.checked_sub(Duration::from_secs(age)));
            return Self::At(made.unwrap_or(SystemTime::UNIX_EPOCH));
        }
        if headers.contains_key(VIA) || CACHE_MARKS.iter().any(|mark| headers.contains_key(mark)) {
            return Self::Before(date);
        }
        Self::At(date)
    }
}

/// Why a later content of the same length can have what an answer says of this one; `None` when it cannot.
///
/// RFC 9110, section 8.8.2.2: a time of change is a strong validator only once it is older than the answer. A short tag is
/// no stronger than the time that it may be made of, nor a weak one, which need not change with the content. Nor is a
/// digest, which may be one of length and time (Starlette): only where nothing can be waited for is it taken for one of the
/// content.
///
/// Times of change are those of the clock that made them: where that is another host's (NFS), and behind the server's, the
/// times look older than they are, and settle too soon. One of the future settles when it has come.
fn unsettled(etag: Option<&str>, modified: Option<SystemTime>, made: Made) -> Option<&'static str> {
    let strong = etag.filter(|etag| !is_weak(etag));
    let Some(modified) = modified else {
        return strong.is_none().then_some("neither a strong entity tag nor a time of change");
    };
    let (made, settles_after) = match made {
        Made::At(made) => (made, SETTLES_AFTER),
        Made::Before(made) => (made, SETTLES_AFTER_IN_CACHE),
        Made::Unknown if strong.is_some_and(is_digest) => return None,
        Made::Unknown => return Some("the answer does not say when it was made"),
    };
    match made.duration_since(modified) {
        Ok(age) if age >= settles_after => None,
        Ok(_) if settles_after > SETTLES_AFTER => {
            Some("a cache in between does not say how old its answer is")
        }
        Ok(_) => Some("changed just before the answer was made"),
        Err(_) => Some("changed after the answer was made, by the server's own clocks"),
    }
}

fn is_digest(etag: &str) -> bool {
    let runs = etag.split(|c: char| !c.is_ascii_alphanumeric());
    runs.map(str::len).max().unwrap_or(0) >= DIGEST_CHARS_MIN
}

pub(super) fn is_weak(etag: &str) -> bool {
    etag.starts_with("W/")
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().filter(|value| !value.is_empty())
}

fn time(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(text(headers, name)?).ok()
}

#[cfg(test)]
mod tests {
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
    fn p1_a_version_is_settled_when_no_later_content_can_have_it() {
        let at = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let by = |seconds| Made::At(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        const DIGEST: &str = "\"d41d8cd98f00b204e9800998ecf8427e\"";
        for (etag, modified, made, settled) in [
            // nginx, Apache and a weak one: as strong as the time.
            (Some("\"2eba7aa1-500000\""), at(784_111_777), by(784_111_778), false),
            (Some("\"2eba7aa1-500000\""), at(784_111_777), by(784_111_779), true),
            (Some("\"ffffffffff-5d3c1b2e8f0c0\""), at(9), by(10), false),
            (Some("W/\"d41d8cd98f00b204e9800998ecf8427e\""), at(9), by(10), false),
            (Some("W/\"a\""), at(9), by(11), true),
            (None, at(9), by(10), false),
            (None, at(9), by(11), true),
            // The server does not say when it answered, or its clock went back.
            (None, at(9), Made::Unknown, false),
            (None, at(9), by(7), false),
            // A digest of length and time is no better; where there is nothing to wait for it is taken for one of the content.
            (Some(DIGEST), at(9), by(9), false),
            (Some(DIGEST), at(9), by(11), true),
            (Some(DIGEST), None, by(9), true),
            (Some("\"d41d8cd98f00b204e9800998ecf8427e-17\""), at(9), Made::Unknown, true),
            (Some("\"7\""), None, Made::Unknown, true),
            (Some("W/\"7\""), None, by(9), false),
            (None, None, by(9), false),
            // Out of a cache that put its own date on it.
            (None, at(9), Made::Before(SystemTime::UNIX_EPOCH + Duration::from_secs(11)), false),
            (None, at(9), Made::Before(SystemTime::UNIX_EPOCH + Duration::from_secs(86_409)), true),
        ] {
            let why = unsettled(etag, modified, made);
            assert_eq!(why.is_none(), settled, "{etag:?} {modified:?} {made:?}: {why:?}");
        }
    }

    #[test]
    fn p1_an_answer_out_of_a_cache_is_as_old_as_the_cache_says() {
        let date = httpdate::parse_http_date(LATER).expect("a date");
        let made = |more: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            headers.insert(DATE, LATER.parse().expect("a header"));
            for (name, value) in more {
                headers.insert(*name, value.parse().expect("a header"));
            }
            Made::of(&headers)
        };
        assert_eq!(made(&[]), Made::At(date));
        assert_eq!(made(&[("age", "60"), ("via", "1.1 c")]), Made::At(date - Duration::from_secs(60)));
        for age in ["", "soon", "99999999999999999999"] {
            assert_eq!(made(&[("age", age)]), Made::At(SystemTime::UNIX_EPOCH), "{age}");
        }
        for mark in ["via", "x-cache", "x-proxy-cache"] {
            assert_eq!(made(&[(mark, "HIT")]), Made::Before(date), "{mark}");
        }
        assert_eq!(Made::of(&HeaderMap::new()), Made::Unknown);
    }

    #[test]
    fn p1_an_answer_from_before_a_version_settled_is_not_taken_for_it() {
        let answer = |date: &str, age: Option<&'static str>| {
            let mut headers = headers(Some("\"2eba7aa1-500000\""), Some(THEN));
            headers.insert(DATE, date.parse().expect("a header"));
            age.map(|age| headers.insert(AGE, HeaderValue::from_static(age)));
            headers
        };
        const MUCH_LATER: &str = "Sun, 06 Nov 1994 09:49:37 GMT";
        let version = FileVersion::of(&answer(MUCH_LATER, None), 10);
        assert!(version.is_settled);
        // An hour, less the second in which the file was changed twice.
        for (date, age, agrees) in [
            (MUCH_LATER, None, true),
            (MUCH_LATER, Some("3598"), true),
            (MUCH_LATER, Some("3599"), false),
            (MUCH_LATER, Some("4000"), false),
            (LATER, None, false),
        ] {
            assert_eq!(version.agrees(&answer(date, age), Some(10)), agrees, "{date} {age:?}");
        }
        let unsettled = FileVersion::of(&answer(LATER, None), 10);
        assert!(
            !unsettled.is_settled && unsettled.agrees(&answer(LATER, None), Some(10)),
            "nothing of it is kept"
        );
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
