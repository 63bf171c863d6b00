//! Why bytes could not be had from elsewhere.

use std::time::Duration;

use crate::BlobRange;

/// Why bytes could not be had from elsewhere. Every variant names the place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The place could not be reached, or the connection broke before the answer was complete.
    #[error("{place}: {range}: connection failed")]
    Connection {
        /// URL or path.
        place: String,
        /// What was asked for, in words.
        range: String,
        /// The cause below.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server answered with a status that is not the one asked for.
    #[error("{place}: {range}: the server answered {status}")]
    Status {
        /// URL.
        place: String,
        /// What was asked for, in words.
        range: String,
        /// HTTP status code.
        status: u16,
        /// What `Retry-After` asked for.
        retry_after: Option<Duration>,
    },
    /// The server ignored `Range` and offered the whole blob.
    #[error("{place}: {range}: the server ignored the range and answered 200")]
    RangeIgnored {
        /// URL.
        place: String,
        /// What was asked for.
        range: BlobRange,
    },
    /// The server answered 206 with another range than the one asked for.
    #[error("{place}: {range}: the server answered with Content-Range {found:?}")]
    ContentRange {
        /// URL.
        place: String,
        /// What was asked for.
        range: BlobRange,
        /// The header as it came.
        found: String,
    },
    /// Fewer or more bytes came than were asked for.
    #[error("{place}: {range}: {found} bytes came instead of {expected}")]
    Length {
        /// URL or path.
        place: String,
        /// What was asked for, in words.
        range: String,
        /// Bytes that should have come.
        expected: u64,
        /// Bytes that came.
        found: u64,
    },
    /// No answer within the deadline.
    #[error("{place}: {range}: no complete answer within {after:?}")]
    Timeout {
        /// URL or path.
        place: String,
        /// What was asked for, in words.
        range: String,
        /// The deadline that passed.
        after: Duration,
    },
    /// The answer is not one that was asked for: an encoding, a header or a token that cannot be used.
    #[error("{place}: {range}: {reason}")]
    Answer {
        /// URL.
        place: String,
        /// What was asked for, in words.
        range: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The answer is larger than anything of its kind may be.
    #[error("{place}: {range}: larger than {max} bytes")]
    TooLarge {
        /// URL.
        place: String,
        /// What was asked for, in words.
        range: String,
        /// The limit.
        max: u64,
    },
    /// A redirect that is not followed.
    #[error("{place}: {range}: {reason}")]
    Redirect {
        /// URL.
        place: String,
        /// What was asked for, in words.
        range: String,
        /// Why not.
        reason: String,
    },
    /// The server's certificate was refused, or TLS could not be set up.
    #[error("{place}: no trust in the connection")]
    Tls {
        /// URL.
        place: String,
        /// The cause below.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A range outside the blob was asked for.
    #[error("{place}: {range} lies outside the blob of {len} bytes")]
    OutOfBounds {
        /// URL or path.
        place: String,
        /// What was asked for.
        range: BlobRange,
        /// Length of the blob.
        len: u64,
    },
    /// A local file could not be read.
    #[error("{place}: cannot be read")]
    Io {
        /// Path.
        place: String,
        /// The cause below.
        #[source]
        source: std::io::Error,
    },
    /// The file has another content by now than the one that was asked for.
    #[error("{place}: {range}: the file has changed")]
    Changed {
        /// URL.
        place: String,
        /// What was asked for, in words.
        range: String,
    },
    /// The object store gave an answer that means nothing.
    #[error("{place}: {range}: the store's answer cannot be used")]
    Store {
        /// Bucket and key.
        place: String,
        /// What was asked for, in words.
        range: String,
        /// The cause below.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The address could not be understood.
    #[error("{place}: {reason}")]
    Address {
        /// The address as given.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl Error {
    /// Whether the next try may succeed where this one failed.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connection { .. } | Self::Timeout { .. } | Self::Length { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500..=599),
            Self::RangeIgnored { .. }
            | Self::ContentRange { .. }
            | Self::Answer { .. }
            | Self::TooLarge { .. }
            | Self::Redirect { .. }
            | Self::Tls { .. }
            | Self::OutOfBounds { .. }
            | Self::Io { .. }
            | Self::Changed { .. }
            | Self::Store { .. }
            | Self::Address { .. } => false,
        }
    }

    /// The pause that the server asked for before the next try.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// What the operator can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Connection { .. } | Self::Timeout { .. } => {
                Some("check that the registry is up and reachable")
            }
            Self::Status { status: 401 | 403, .. } => Some(
                "private registries are not supported yet, nor web servers that ask for a password; a bucket is \
                 asked with the AWS_… settings of the daemon's environment",
            ),
            Self::Status { status: 404, .. } => Some("check the name and tag of the image"),
            Self::RangeIgnored { .. } => Some("on-demand loading needs a server that supports HTTP ranges"),
            Self::Status { status: 429, .. } => Some("the server limits requests: wait and try again"),
            Self::Changed { .. } => Some("open the file again: it has changed on the server"),
            Self::Store { .. } => Some("check bucket, region and endpoint (AWS_REGION, AWS_ENDPOINT_URL)"),
            Self::Tls { .. } => {
                Some("check the host's certificates and clock, and that the registry speaks https")
            }
            _ => None,
        }
    }
}
