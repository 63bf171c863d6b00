//! [`HeldBlob`]: a blob in the hands of a task of the engine.

use std::{ops::Deref, sync::Arc};

use crate::{Blob, Engine, FillError, demand::EngineHold, table::ObjectId};

/// A blob in the hands of a task: whoever withdraws it waits until this is dropped, so that no task has the blob, or the
/// operation on its cookie, any more.
///
/// The fields are dropped in their order: the blob goes before the hold on its object.
#[derive(Clone)]
pub(crate) struct HeldBlob {
    blob: Arc<Blob>,
    hold: Arc<EngineHold>,
}

impl HeldBlob {
    /// Its object in the tables.
    pub fn object(&self) -> ObjectId {
        self.hold.object()
    }

    /// Lets the blob go, not yet the hold: for those who have a last word to say before the withdrawal returns.
    pub fn without_blob(self) -> Arc<EngineHold> {
        self.hold
    }
}

impl Deref for HeldBlob {
    type Target = Arc<Blob>;

    fn deref(&self) -> &Arc<Blob> {
        &self.blob
    }
}

impl Engine {
    /// Takes `blob` in hand.
    pub(crate) fn hold(self: &Arc<Self>, blob: &Arc<Blob>) -> Result<HeldBlob, FillError> {
        let object = self.enter(blob)?;
        let hold = self.tables.hold(object).map_err(|refused| FillError::refused(blob, &refused))?;
        Ok(HeldBlob { blob: Arc::clone(blob), hold: Arc::new(hold) })
    }
}
