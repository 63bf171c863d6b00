//! [`Error`]: why a read of a remote file failed.

use larder_fscache::ObjectRange;

use crate::SourceError;

/// `errno` values of Linux, so that no caller has to know what each failure means to a kernel.
const EIO: i32 = 5;
const ENODATA: i32 = 61;
const ESTALE: i32 = 116;

/// Why a read of a remote file failed. Clones are told to every reader of the bytes that are missing.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes of this version cannot be had any more.
    #[error("{file}: {range}: this version of the file is gone")]
    Stale {
        /// The file.
        file: String,
        /// What was asked for.
        range: ObjectRange,
        /// What the far side said.
        #[source]
        source: SourceError,
    },
    /// The far side does not give the bytes.
    #[error("{file}: {range}: cannot be downloaded")]
    Download {
        /// The file.
        file: String,
        /// What was asked for.
        range: ObjectRange,
        /// What the far side said.
        #[source]
        source: SourceError,
    },
    /// The far side gave no bytes twice in a row.
    #[error("{file}: {range}: no bytes came, twice in a row")]
    NoProgress {
        /// The file.
        file: String,
        /// What was asked for.
        range: ObjectRange,
    },
    /// The cache gave an answer that means nothing.
    #[error("{file}: {range}: the cache has no answer")]
    Invalid {
        /// The file.
        file: String,
        /// What was asked for.
        range: ObjectRange,
    },
    /// The process is about to end, or a part of it has failed.
    #[error("{file}: {range}: the read was given up")]
    Abandoned {
        /// The file.
        file: String,
        /// What was asked for.
        range: ObjectRange,
    },
}

impl Error {
    pub(crate) fn download(file: &str, range: ObjectRange, source: SourceError) -> Self {
        let file = file.to_owned();
        match source {
            SourceError::Changed | SourceError::Gone => Self::Stale { file, range, source },
            SourceError::Failed(_) => Self::Download { file, range, source },
        }
    }

    /// The error number that a reader gets.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Stale { .. } => ESTALE,
            Self::NoProgress { .. } => ENODATA,
            Self::Download { .. } | Self::Invalid { .. } | Self::Abandoned { .. } => EIO,
        }
    }

    /// What the operator can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Stale { .. } => Some("open the file again: it has changed on the server"),
            Self::Download { .. } | Self::NoProgress { .. } => {
                Some("check that the server is up and reachable; the next read tries again")
            }
            Self::Invalid { .. } | Self::Abandoned { .. } => None,
        }
    }
}
