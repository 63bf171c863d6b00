//! [`Bringer`]: the engine as what fscache's `prepare_ondemand_read` blocks on.

use std::sync::{Arc, Weak, mpsc};

use larder_fscache::{Bring, Error, ObjectRange};

use crate::{Blob, Cause, Engine, FillError};

/// Brings the holes of one blob to clients that ask its cookie with `ONDEMAND` and wait on a thread of their own.
///
/// It keeps neither the blob nor the engine alive: the cookie that it belongs to is held by the blob.
struct Bringer {
    engine: Weak<Engine>,
    blob: Weak<Blob>,
}

impl Engine {
    /// Becomes who brings the bytes of the holes of `blob`'s cookie, for
    /// [`prepare_ondemand_read`](larder_fscache::CacheResources::prepare_ondemand_read) with
    /// [`ONDEMAND`](larder_fscache::ReadFlags::ONDEMAND). That call blocks then: not for threads of the runtime.
    pub fn bring_for(self: &Arc<Self>, blob: &Arc<Blob>) {
        let bringer = Bringer { engine: Arc::downgrade(self), blob: Arc::downgrade(blob) };
        blob.cookie().set_bring(Some(Arc::new(bringer)));
    }
}

impl Bring for Bringer {
    fn bring(&self, want: ObjectRange) -> Result<(), Error> {
        let (Some(engine), Some(blob)) = (self.engine.upgrade(), self.blob.upgrade()) else {
            // Whoever asks holds the cookie of a blob that is gone; the decision is a hole, as without anybody who brings.
            return Ok(());
        };
        let (done, result) = mpsc::sync_channel(1);
        engine.spawn_fill(&blob, want, Cause::Demand { pid: None }, move |result| {
            // Sent into a channel with room, to somebody who waits.
            let _ = done.send(result);
        });
        let result =
            result.recv().unwrap_or_else(|_| Err(FillError::Abandoned { blob: Arc::clone(blob.name()) }));
        result.map_err(|error| Error::Bring {
            cookie: blob.cookie().key().clone(),
            range: want,
            errno: error.errno(),
            source: Box::new(error),
        })
    }
}
