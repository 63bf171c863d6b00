//! Why a plan could not be installed.

use std::io;
use std::path::PathBuf;

/// Why a plan could not be installed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The program was built without the feature `inject`.
    #[error("LARDER_FAULTS is set, but this build has no fault points")]
    NotBuilt,
    /// A word is not `name=value`.
    #[error("fault plan: {word:?} is not of the form name=value")]
    Word {
        /// The word.
        word: String,
    },
    /// A name is neither a setting nor a site nor a group of sites.
    #[error("fault plan: no site is named {name:?}")]
    Site {
        /// The name.
        name: String,
    },
    /// A kind is unknown.
    #[error("fault plan: {site}: no kind of fault is named {kind:?}")]
    Kind {
        /// The site as it was written.
        site: String,
        /// The kind as it was written.
        kind: String,
    },
    /// A site cannot have that fault.
    #[error("fault plan: {site} cannot be hit by {kind}")]
    Powerless {
        /// The site.
        site: &'static str,
        /// The kind.
        kind: &'static str,
    },
    /// A number is none, or too large.
    #[error("fault plan: {word:?} needs {expected}")]
    Number {
        /// The word.
        word: String,
        /// What number would do.
        expected: &'static str,
    },
    /// The rates of one site add up to more than certainty.
    #[error("fault plan: the rates of {site} add up to more than 1000000")]
    Rates {
        /// The site.
        site: &'static str,
    },
    /// The file with the counters cannot be used.
    #[error("{}: the file with the counters cannot be used", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file with the counters is of a build with other sites.
    #[error("{}: the counters are those of another build", path.display())]
    ForeignState {
        /// The file.
        path: PathBuf,
    },
}

impl Error {
    /// Returns what the operator can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NotBuilt => Some("unset it, or build with `--features inject`"),
            Self::Word { .. } | Self::Site { .. } | Self::Kind { .. } | Self::Number { .. } => {
                Some("for example: seed=7 cachefiles.pwrite=eio:1000+short:5000 ondemand.verified=die@3")
            }
            Self::Powerless { .. } => Some("a step can only die or pause; only a transfer can be short"),
            Self::Rates { .. } => Some("rates are parts per million of the visits"),
            Self::State { .. } | Self::ForeignState { .. } => Some("let the same build make a new file"),
        }
    }
}
