//! [`WebDav`]: what is known of whether a server lists by WebDAV.

use std::time::Duration;

use tokio::time::Instant;

use crate::Error;

/// After a first answer that says nothing either way, for how long the server is not asked again.
const PAUSE_MIN: Duration = Duration::from_secs(60);
/// For how long at most, and after an answer that it does not list so: servers are changed too.
const PAUSE_MAX: Duration = Duration::from_secs(3600);

/// What is known of whether a server lists by WebDAV.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum WebDav {
    /// Nothing yet.
    #[default]
    Unknown,
    /// It has listed so. Whatever it answers later is about one directory.
    Spoken,
    /// It has said that it does not, or something went wrong at the server or on the way.
    Paused { until: Instant, pause: Duration },
}

impl WebDav {
    /// What was known, when the server is to be asked now. After a pause one asks for all: a server that swallows the
    /// method keeps whoever asks waiting.
    pub fn ask(&mut self, now: Instant) -> Option<Self> {
        let known = *self;
        if let Self::Paused { until, pause } = self {
            if now < *until {
                return None;
            }
            *until = now + *pause;
        }
        Some(known)
    }

    /// Takes in that somebody asked when so much was `known`, and failed with `error`.
    pub fn failed(&mut self, known: Self, error: &Error, now: Instant) {
        let pause = match (*self, known) {
            // It has worked, and nobody forgets that.
            (Self::Spoken, _) => return,
            _ if is_about_method(error) => PAUSE_MAX,
            (_, Self::Paused { pause, .. }) => (pause * 2).min(PAUSE_MAX),
            _ => PAUSE_MIN,
        };
        *self = Self::Paused { until: now + pause, pause };
    }
}

/// Whether a server says that it does not list so. All else may be a proxy's error page, or a server that is busy.
pub(super) fn is_about_method(error: &Error) -> bool {
    matches!(error, Error::Status { status: 405 | 415 | 501, .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16) -> Error {
        Error::Status { place: "h".into(), range: "listing".into(), status, retry_after: None }
    }

    #[test]
    fn p3_a_server_is_asked_again_sooner_or_later() {
        let page =
            Error::Store { place: "h".into(), range: "listing".into(), source: "no XML".to_owned().into() };
        for (error, pause) in [
            (status(405), PAUSE_MAX),
            (status(415), PAUSE_MAX),
            (status(501), PAUSE_MAX),
            (status(400), PAUSE_MIN),
            (status(404), PAUSE_MIN),
            (status(503), PAUSE_MIN),
            (page, PAUSE_MIN),
        ] {
            let (mut webdav, now) = (WebDav::Unknown, Instant::now());
            let known = webdav.ask(now).expect("nothing is known yet");
            webdav.failed(known, &error, now);
            assert_eq!(webdav.ask(now + pause - Duration::from_secs(1)), None, "{error}");
            assert!(webdav.ask(now + pause).is_some(), "{error}");
            let mut spoken = WebDav::Spoken;
            spoken.failed(known, &error, now);
            assert_eq!(spoken, WebDav::Spoken, "{error}");
        }
    }

    #[test]
    fn a_server_that_does_not_answer_is_asked_by_one_and_less_and_less_often() {
        let (mut webdav, mut now) = (WebDav::Unknown, Instant::now());
        for (turn, minutes) in [1, 2, 4, 8, 16, 32, 60, 60].into_iter().enumerate() {
            let known = webdav.ask(now).expect("it is time");
            assert_eq!(webdav.ask(now).is_some(), turn == 0, "one asks for all: {minutes}");
            // Before anything is known all ask, and fail together.
            for known in webdav.ask(now).into_iter().chain([known]) {
                webdav.failed(known, &status(504), now + Duration::from_secs(30));
            }
            now += Duration::from_secs(30 + 60 * minutes - 1);
            assert_eq!(webdav.ask(now), None, "{minutes}");
            now += Duration::from_secs(1);
        }
    }
}
