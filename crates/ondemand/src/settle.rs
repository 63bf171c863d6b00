//! [`settle_all`]: digest, then decode, then write. In that order, always (DESIGN.md, section 2).

use std::sync::Arc;

use bytes::Bytes;
use larder_faults::{Site, check, point};
use larder_image::{Chunk, Verified};
use tracing::trace;

use crate::{Blob, FillError, seam::Whole};

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
    let verified = arrive(blob, chunk.number).map(|()| chunk.verify(arrived.bytes));
    match verified.and_then(|verified| decode(blob, &chunk, verified, tries)) {
        Ok(whole) => Settled::Done(write(blob, chunk.number, &whole)),
        Err(settled) => settled,
    }
}

/// The same for neighbouring chunks that are all parts of `read`; what lies side by side there after decoding, as the
/// chunks of a raw blob do, is written with one call.
pub(crate) fn settle_all(
    blob: &Blob,
    read: &Bytes,
    arrived: Vec<Arrived>,
    tries: Tries,
) -> Vec<(u32, Settled)> {
    let mut settled = Vec::with_capacity(arrived.len());
    let (mut chunks, mut here) = (Vec::with_capacity(arrived.len()), Vec::with_capacity(arrived.len()));
    for Arrived { number, bytes } in arrived {
        let chunk = blob.table().chunk(number);
        match arrive(blob, number) {
            Err(failed) => settled.push((number, failed)),
            Ok(()) => {
                chunks.push(chunk);
                here.push((chunk, bytes));
            }
        }
    }
    let mut run: Option<Run> = None;
    for (chunk, verified) in chunks.iter().zip(Chunk::verify_all(here)) {
        let number = chunk.number;
        match decode(blob, chunk, verified, tries) {
            Err(refused) => settled.push((number, refused)),
            Ok(whole) => {
                if let Some(run) = &mut run
                    && run.join(number, &whole, read)
                {
                    continue;
                }
                let before = run.replace(Run { numbers: vec![number], whole });
                settled.extend(before.into_iter().flat_map(|run| run.write(blob)));
            }
        }
    }
    settled.extend(run.into_iter().flat_map(|run| run.write(blob)));
    settled
}

/// Chunks that are written together.
struct Run {
    numbers: Vec<u32>,
    whole: Vec<Whole>,
}

impl Run {
    /// Takes another chunk in, if its bytes follow on both in the object and in `read`.
    fn join(&mut self, number: u32, next: &[Whole], read: &Bytes) -> bool {
        let ([last], [next]) = (&mut self.whole[..], next) else { return false };
        let (Some(start), Some(follower)) = (place(&last.bytes, read), place(&next.bytes, read)) else {
            return false;
        };
        let follows = last.at + last.bytes.len() as u64 == next.at && start + last.bytes.len() == follower;
        if follows {
            last.bytes = read.slice(start..follower + next.bytes.len());
            self.numbers.push(number);
        }
        follows
    }

    fn write(self, blob: &Blob) -> Vec<(u32, Settled)> {
        let first = self.numbers.first().copied().unwrap_or_default();
        let written = write(blob, first, &self.whole);
        self.numbers.into_iter().map(|number| (number, Settled::Done(written.clone()))).collect()
    }
}

/// Where in `read` the bytes of `part` lie, if that is where they are.
fn place(part: &Bytes, read: &Bytes) -> Option<usize> {
    let offset = (part.as_ptr() as usize).checked_sub(read.as_ptr() as usize)?;
    offset.checked_add(part.len()).filter(|end| *end <= read.len()).map(|_| offset)
}

/// Where a test lets a chunk fail whose bytes have come.
fn arrive(blob: &Blob, number: u32) -> Result<(), Settled> {
    fault_point(Site::OndemandArrived, blob, number).map_err(done)
}

/// Decodes what the digest has vouched for, or says what is wrong with it.
fn decode(
    blob: &Blob,
    chunk: &Chunk<'_>,
    verified: Result<Verified, larder_image::Error>,
    tries: Tries,
) -> Result<Vec<Whole>, Settled> {
    let refuse = |source| {
        let (blob, chunk, range) = (Arc::clone(blob.name()), chunk.number, chunk.decoded);
        FillError::Content { blob, chunk, range, source: Arc::new(source) }
    };
    let verified = verified.map_err(|error| {
        blob.counters().mismatches.add(1);
        match tries {
            Tries::MoreToCome => Settled::Refused,
            Tries::Last => done(refuse(error)),
        }
    })?;
    fault_point(Site::OndemandVerified, blob, chunk.number).map_err(done)?;
    let decoded = chunk.decode(verified).map_err(|error| done(refuse(error)))?;
    fault_point(Site::OndemandDecoded, blob, chunk.number).map_err(done)?;
    Ok(blob.join_seams(chunk.decoded.start(), &decoded))
}

fn done(error: FillError) -> Settled {
    Settled::Done(Err(error))
}

/// Where a test lets the fill fail; nothing without the feature `inject`.
fn fault_point(site: Site, blob: &Blob, number: u32) -> Result<(), FillError> {
    check(site).map_err(|errno| {
        let source = larder_fscache::Error::io(blob.cookie().key(), "filling", errno.into());
        not_written(blob, number, source)
    })
}

fn not_written(blob: &Blob, number: u32, source: larder_fscache::Error) -> FillError {
    let range = blob.table().chunk(number).decoded;
    FillError::Cache { blob: Arc::clone(blob.name()), chunk: number, range, source: Arc::new(source) }
}

fn write(blob: &Blob, number: u32, whole: &[Whole]) -> Result<(), FillError> {
    for whole in whole {
        trace!(
            obj = blob.object_number(), backer = %blob.name(), start = whole.at, len = whole.bytes.len(),
            "cachefiles_ondemand_fd_write"
        );
        let written = blob.resources().write(whole.at, &whole.bytes);
        written.map_err(|error| not_written(blob, number, error))?;
    }
    // It may be the last thing before death, and cannot fail.
    let _ = point(Site::OndemandWritten);
    Ok(())
}
