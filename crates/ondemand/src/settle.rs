//! [`settle`]: digest, then decode, then write. In that order, always (DESIGN.md, section 2).

use std::sync::Arc;

use bytes::Bytes;

use crate::{Blob, FillError};

/// A chunk's stored bytes, as they came.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub number: u32,
    pub bytes: Bytes,
}

/// Whether bytes that are not the image's may be asked for once more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Tries {
    MoreToCome,
    Last,
}

/// What came of a chunk.
#[derive(Debug)]
pub(crate) enum Settled {
    /// It is present, or it cannot be.
    Done(Result<(), FillError>),
    /// Its bytes are not the image's, and there is another try.
    Refused,
}

/// Verifies, decodes and writes one chunk. Blocks on the cache's file.
///
/// The presence bits are set by the write, after the bytes are in the file; the caller then answers whoever waits.
pub(crate) fn settle(blob: &Blob, arrived: Arrived, tries: Tries) -> Settled {
    let chunk = blob.table().chunk(arrived.number);
    let refuse = |source| {
        let (blob, chunk, range) = (Arc::clone(blob.name()), chunk.number, chunk.decoded);
        FillError::Content { blob, chunk, range, source: Arc::new(source) }
    };
    let verified = match chunk.verify(arrived.bytes) {
        Ok(verified) => verified,
        Err(error) => {
            blob.counters().mismatches.add(1);
            return match tries {
                Tries::MoreToCome => Settled::Refused,
                Tries::Last => Settled::Done(Err(refuse(error))),
            };
        }
    };
    let decoded = match chunk.decode(verified) {
        Ok(decoded) => decoded,
        Err(error) => return Settled::Done(Err(refuse(error))),
    };
    for whole in blob.join_seams(chunk.decoded.start(), &decoded) {
        if let Err(error) = blob.resources().write(whole.at, &whole.bytes) {
            let (blob, chunk, range) = (Arc::clone(blob.name()), chunk.number, chunk.decoded);
            return Settled::Done(Err(FillError::Cache { blob, chunk, range, source: Arc::new(error) }));
        }
    }
    Settled::Done(Ok(()))
}
