//! [`FillError`]: why a hole stayed a hole.

use std::{sync::Arc, time::Duration};

use larder_fscache::ObjectRange;
use larder_remote::BlobRange;

use crate::{Blob, table::Refused};

/// Why a hole stayed a hole. One failed fetch answers many readers, so an error can be cloned.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FillError {
    /// The bytes could not be fetched.
    #[error("blob {blob}: {range} could not be fetched")]
    Fetch {
        /// Name of the blob.
        blob: Arc<str>,
        /// What was asked for, in the stored blob.
        range: BlobRange,
        /// The cause below.
        #[source]
        source: Arc<larder_remote::Error>,
    },
    /// The bytes that came, twice, are not those of the image.
    #[error("blob {blob}: chunk {chunk} ({range}) is not what the image says")]
    Content {
        /// Name of the blob.
        blob: Arc<str>,
        /// Number of the chunk in the chunk table.
        chunk: u32,
        /// What the chunk holds, in the decoded object.
        range: ObjectRange,
        /// The cause below.
        #[source]
        source: Arc<larder_image::Error>,
    },
    /// The bytes could not be written to the cache.
    #[error("blob {blob}: chunk {chunk} ({range}) could not be written to the cache")]
    Cache {
        /// Name of the blob.
        blob: Arc<str>,
        /// Number of the chunk in the chunk table.
        chunk: u32,
        /// What the chunk holds, in the decoded object.
        range: ObjectRange,
        /// The cause below.
        #[source]
        source: Arc<larder_fscache::Error>,
    },
    /// The bytes did not come in time.
    #[error("blob {blob}: {range} did not come within {after:?}")]
    Deadline {
        /// Name of the blob.
        blob: Arc<str>,
        /// What was wanted, in the decoded object.
        range: ObjectRange,
        /// The deadline that passed.
        after: Duration,
    },
    /// The bytes were brought and are not there.
    #[error("blob {blob}: {range} is still missing after it was brought")]
    StillMissing {
        /// Name of the blob.
        blob: Arc<str>,
        /// What was wanted, in the decoded object.
        range: ObjectRange,
    },
    /// The task that brought the bytes is gone: the daemon is shutting down.
    #[error("blob {blob}: the fetch was given up")]
    Abandoned {
        /// Name of the blob.
        blob: Arc<str>,
    },
    /// The tables of objects and requests did not take the question.
    #[error("blob {blob}: the question was refused")]
    Refused {
        /// Name of the blob.
        blob: Arc<str>,
        /// The cause below: withdrawn, shut down, or too many.
        #[source]
        source: Refused,
    },
}

impl FillError {
    pub(crate) fn refused(blob: &Blob, refused: &Refused) -> Self {
        Self::Refused { blob: Arc::clone(blob.name()), source: *refused }
    }

    /// The error number that a reader gets: ENOSPC and the like from the cache, else EIO.
    pub fn errno(&self) -> i32 {
        const EIO: i32 = 5;
        match self {
            Self::Cache { source, .. } => source.errno(),
            Self::Refused { source, .. } => source.errno(),
            Self::Fetch { .. }
            | Self::Content { .. }
            | Self::Deadline { .. }
            | Self::StillMissing { .. }
            | Self::Abandoned { .. } => EIO,
        }
    }

    /// What the operator can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Fetch { source, .. } => source.hint(),
            Self::Content { .. } => {
                Some("the registry sends other bytes than the image's; check it, and push the image again")
            }
            Self::Cache { source, .. } => source.hint(),
            Self::Deadline { .. } => Some("check that the registry is up and fast enough"),
            Self::StillMissing { .. } => Some("check the cache's file system for errors"),
            Self::Abandoned { .. } => None,
            Self::Refused { source, .. } => source.hint(),
        }
    }

    /// The error and its causes in one line.
    pub fn chain(&self) -> String {
        let mut line = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            line.push_str(": ");
            line.push_str(&error.to_string());
            cause = error.source();
        }
        line
    }
}
