//! [`WebDav`]: what is known of whether a server lists by WebDAV.

use std::time::Duration;

use tokio::time::Instant;

use crate::Error;

/// After an answer that says nothing either way, for how long the server is not asked again.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// What is known of whether a server lists by WebDAV.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum WebDav {
    /// Nothing yet.
    #[default]
    Unknown,
    /// It has listed so.
    Spoken,
    /// It has said that it does not.
    Refused,
    /// Something went wrong, at the server or on the way: to be asked again from then on.
    Unclear { until: Instant },
}

impl WebDav {
    /// Whether to ask.
    pub fn is_asked(self, now: Instant) -> bool {
        match self {
            Self::Unknown | Self::Spoken => true,
            Self::Refused => false,
            Self::Unclear { until } => now >= until,
        }
    }

    /// What is known after `error`.
    pub fn after(self, error: &Error, now: Instant) -> Self {
        match (self, error) {
            // A proxy's error page, a server that is busy or overwhelmed: only these statuses are about the method.
            (_, Error::Status { status: 405 | 415 | 501, .. }) => Self::Refused,
            (Self::Spoken, _) => Self::Spoken,
            _ => Self::Unclear { until: now + ASK_AGAIN_AFTER },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_server_that_says_so_is_not_asked_again() {
        let status =
            |status| Error::Status { place: "h".into(), range: "listing".into(), status, retry_after: None };
        let page =
            Error::Store { place: "h".into(), range: "listing".into(), source: "no XML".to_owned().into() };
        let now = Instant::now();
        for refused in [405, 415, 501] {
            for before in [WebDav::Unknown, WebDav::Spoken] {
                assert!(!before.after(&status(refused), now).is_asked(now + ASK_AGAIN_AFTER * 1000));
            }
        }
        for error in [status(400), status(404), status(503), page] {
            let after = WebDav::Unknown.after(&error, now);
            assert!(!after.is_asked(now) && after.is_asked(now + ASK_AGAIN_AFTER), "{error}");
            assert_eq!(WebDav::Spoken.after(&error, now), WebDav::Spoken, "{error}");
        }
    }
}
