//! [`Fault`]: what the registry does wrong, to which requests, how often.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// One way to misbehave.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Fault {
    /// Answers with this status and a short body.
    Status(u16),
    /// Answers with this status and this `Retry-After`, as it stands.
    RetryAfter {
        /// Usually 429 or 503.
        status: u16,
        /// Seconds, a date, or nonsense.
        value: String,
    },
    /// Cuts the connection instead of answering.
    Hangup,
    /// Sends a sound head, then so many bytes of the body, and cuts the connection.
    CloseEarly {
        /// Bytes of the body that still go out.
        after: u64,
    },
    /// Sends a sound head, then so many bytes of the body, and then nothing, with the connection left open.
    StallBody {
        /// Bytes of the body that still go out.
        after: u64,
    },
    /// Flips the lowest bit of one byte, wherever an answer carries it.
    FlipBit {
        /// Digest of the blob.
        blob: String,
        /// Place of the byte in it.
        offset: u64,
    },
    /// Sends so many bytes more (zeros) or fewer than the range asked for.
    WrongLength {
        /// Bytes more, or fewer when negative.
        by: i64,
        /// Whether `Content-Length` tells it; otherwise there is none.
        announced: bool,
    },
    /// Says this in `Content-Range`; the empty text leaves the header out.
    WrongContentRange(String),
    /// Answers 200 with the whole blob, whatever was asked for.
    IgnoreRange,
    /// Says this in `Content-Encoding`.
    ContentEncoding(String),
    /// Waits so long before the answer, then behaves.
    Stall(Duration),
    /// Sends the body in pieces of this many bytes, with a pause before each.
    SlowDrip {
        /// Bytes at a time.
        piece: usize,
        /// Pause before each piece.
        every: Duration,
    },
    /// Sends the client elsewhere. `{digest}` in the location is replaced; blobs are also at `/cdn/{digest}`.
    Redirect {
        /// 301, 302, 303, 307 or 308.
        status: u16,
        /// Absolute or relative.
        location: String,
    },
}

/// Which requests a fault is for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Target {
    /// Manifests and blobs under `/v2/`.
    Any,
    /// Manifests.
    Manifests,
    /// Blobs under `/v2/`.
    Blobs,
    /// One blob under `/v2/`, by digest.
    Blob(String),
    /// Whatever has this in its path, `/cdn/` and `/token` included.
    Path(String),
}

/// How long a fault lasts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Times {
    /// For so many requests that it applies to.
    Next(u32),
    /// Until faults are cleared.
    UntilCleared,
}

/// The faults to come, oldest first; a request meets at most one.
#[derive(Debug, Default)]
pub(crate) struct Script {
    rules: Mutex<Vec<(Target, Times, Fault)>>,
}

impl Script {
    pub(crate) fn add(&self, target: Target, times: Times, fault: Fault) {
        if times != Times::Next(0) {
            self.rules().push((target, times, fault));
        }
    }

    pub(crate) fn clear(&self) {
        self.rules().clear();
    }

    /// Returns the first fault for a request for `path` that covers the bytes `start..end`.
    pub(crate) fn take(&self, path: &str, start: u64, end: u64) -> Option<Fault> {
        let mut rules = self.rules();
        let met = |(target, _, fault): &(Target, Times, Fault)| match fault {
            Fault::FlipBit { blob, offset } => path.ends_with(blob) && (start..end).contains(offset),
            _ => target.matches(path),
        };
        let at = rules.iter().position(met)?;
        let fault = rules[at].2.clone();
        if let Times::Next(left) = &mut rules[at].1 {
            *left -= 1;
            if *left == 0 {
                rules.remove(at);
            }
        }
        Some(fault)
    }

    fn rules(&self) -> MutexGuard<'_, Vec<(Target, Times, Fault)>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Target {
    fn matches(&self, path: &str) -> bool {
        let (blob, manifest) = (path.contains("/blobs/"), path.contains("/manifests/"));
        match self {
            Self::Any => blob || manifest,
            Self::Manifests => manifest,
            Self::Blobs => blob,
            Self::Blob(digest) => blob && path.ends_with(digest),
            Self::Path(part) => path.contains(part),
        }
    }
}
