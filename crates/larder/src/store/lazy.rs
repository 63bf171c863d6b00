//! [`Waiting`]: a metadata image of which parts have still to be brought, for whoever can wait for them.

use std::io;
use std::sync::Arc;

use larder_erofs::{MetaSource, PhysicalAddr, SourceError};
use larder_fscache::{IoSource, ObjectRange, OnHole, ReadFlags};
use larder_ondemand::{Blob, Engine};

/// The metadata image in a blob. A read brings what is missing and waits for it: not for threads of the runtime.
pub struct Waiting {
    blob: Arc<Blob>,
}

impl Waiting {
    /// Reads `blob`, which `engine` fills.
    pub fn new(blob: Arc<Blob>, engine: &Arc<Engine>) -> Self {
        engine.bring_for(&blob);
        Self { blob }
    }

    fn bring(&self, want: ObjectRange) -> io::Result<()> {
        let mut at = want.start();
        while at < want.end() {
            let rest = ObjectRange::at(at, want.end() - at);
            let resources = self.blob.resources();
            let decision = resources.prepare_ondemand_read(rest, u64::MAX, ReadFlags::ONDEMAND);
            let decision = decision.map_err(io::Error::other)?;
            if decision.source != IoSource::ReadFromCache || decision.range.end() <= at {
                return Err(io::Error::other("it was brought, and is still missing"));
            }
            at = decision.range.end();
        }
        Ok(())
    }
}

impl MetaSource for Waiting {
    fn read_exact_at(&self, at: PhysicalAddr, buf: &mut [u8]) -> Result<(), SourceError> {
        let len = u64::try_from(buf.len()).map_err(io::Error::other)?;
        let end = at.get().checked_add(len).filter(|end| *end <= self.len());
        let want = end.and_then(|end| ObjectRange::new(at.get(), end));
        self.bring(want.ok_or(io::ErrorKind::UnexpectedEof)?)?;
        match self.blob.resources().read(at.get(), buf, OnHole::Fail).map_err(io::Error::other)? {
            len if len == buf.len() => Ok(()),
            _ => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
    }

    fn len(&self) -> u64 {
        self.blob.size()
    }
}
