//! [`Source`]: where the bytes of one version of one file come from.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use larder_fscache::ObjectRange;

/// Where the bytes of one version of one file come from.
#[async_trait]
pub trait Source: Send + Sync + 'static {
    /// Brings bytes of `range` of the version that this source stands for, in order, into `sink` as they arrive.
    ///
    /// It may stop early without an error: what is missing is then asked for again. Bytes that `sink` got stay good
    /// whatever happens later; `sink` takes no more than `range` has.
    ///
    /// # Errors
    ///
    /// [`SourceError::Changed`] when the file on the far side is no longer this version.
    async fn read(&self, range: ObjectRange, sink: &mut (dyn FnMut(Bytes) + Send))
    -> Result<(), SourceError>;

    /// What the file is called in messages.
    fn describe(&self) -> String;
}

/// Why a source could not bring bytes.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The file on the far side is another one now.
    #[error("the file has changed on the far side")]
    Changed,
    /// The file is gone on the far side.
    #[error("the file is gone on the far side")]
    Gone,
    /// Anything else; the next read tries again.
    #[error(transparent)]
    Failed(Arc<dyn std::error::Error + Send + Sync>),
}

impl SourceError {
    /// Wraps an error of the far side.
    pub fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Failed(Arc::new(error))
    }
}
