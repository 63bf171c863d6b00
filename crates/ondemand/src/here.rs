//! Chunks whose stored bytes lie on this machine: read, verified, decoded and written by one thread, piece by piece.
//!
//! A piece is small enough to stay in one of the processor's caches from the read to the write, and has as many chunks of 64 KiB as
//! are hashed side by side.

use std::{cell::Cell, ops::Range, sync::Arc};

use bytes::Bytes;
use larder_image::ChunkTable;
use larder_remote::{BlobRange, ReadHere};

use crate::{
    Blob, Engine, FillError,
    flight::BookingId,
    settle::{Arrived, Settled, Tries, settle_all},
    trip::land,
};

/// Stored bytes that are read at once, unless a single chunk is longer.
const PIECE_BYTES_MAX: u64 = 1 << 20;

thread_local! {
    /// What the pieces of this thread are read into, one after the other: a fresh one each would cost as many page
    /// faults as it has pages. It goes with the thread, which the runtime ends when it is idle.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The largest buffer that is kept: a single chunk may be longer than a piece.
const BUFFER_BYTES_MAX: usize = 1 << 20;

/// Cuts neighbouring chunks into pieces.
pub(crate) fn pieces(table: &ChunkTable, chunks: Range<u32>) -> impl Iterator<Item = Range<u32>> {
    let mut next = chunks.start;
    std::iter::from_fn(move || {
        let start = next;
        let from = (start < chunks.end).then(|| table.chunk(start).stored.start())?;
        next += 1;
        while next < chunks.end && table.chunk(next).stored.end() - from <= PIECE_BYTES_MAX {
            next += 1;
        }
        Some(start..next)
    })
}

/// What a read of one piece gave.
pub(crate) struct Piece {
    chunks: Range<u32>,
    range: BlobRange,
    bytes: Result<Bytes, larder_remote::Error>,
}

impl Piece {
    /// Reads the stored bytes of neighbouring chunks, and tells each time that some have come. Blocks, and may hang: it has
    /// nothing of any blob.
    pub fn read(source: &dyn ReadHere, table: &ChunkTable, chunks: Range<u32>, came: &dyn Fn()) -> Self {
        let stored = |number: u32| table.chunk(number).stored;
        let (first, last) = (stored(chunks.start), stored(chunks.end - 1));
        let range = BlobRange::new(first.start(), last.end()).unwrap_or(first);
        Self { chunks, range, bytes: source.read_here(range, BUFFER.take(), came) }
    }
}

/// Settles one piece and lands its chunks; whether all of them are present now. Those whose bytes the source does not have, or
/// has wrong, are `Err`: nothing is landed of them.
///
/// A file that lies once lies again: it is not asked a second time.
pub(crate) fn bring_piece(
    engine: &Engine,
    blob: &Arc<Blob>,
    booking: BookingId,
    piece: Piece,
    tries: Tries,
) -> Result<bool, Missed> {
    let Piece { chunks, range, bytes } = piece;
    let bytes = bytes.map_err(|source| {
        let (name, source) = (Arc::clone(blob.name()), Arc::new(source));
        let error = FillError::Fetch { blob: name, range, source };
        Missed { chunks: chunks.clone().collect(), error: Some(error) }
    })?;
    blob.counters().fetched_bytes.add(bytes.len() as u64);
    let offset = |at: u64| usize::try_from(at - range.start()).unwrap_or(usize::MAX).min(bytes.len());
    let cut = |number: u32| {
        let stored = blob.table().chunk(number).stored;
        Arrived { number, bytes: bytes.slice(offset(stored.start())..offset(stored.end())) }
    };
    let arrived = chunks.map(cut).collect();
    let settled = settle_all(blob, &bytes, arrived, tries);
    keep_buffer(bytes);
    let (mut ok, mut refused) = (true, Vec::new());
    for (number, settled) in settled {
        match settled {
            Settled::Done(result) => {
                ok &= result.is_ok();
                land(engine, blob, booking, number, result);
            }
            Settled::Refused => refused.push(number),
        }
    }
    if refused.is_empty() { Ok(ok) } else { Err(Missed { chunks: refused, error: None }) }
}

/// Chunks that a source did not bring.
pub(crate) struct Missed {
    /// Their numbers.
    pub chunks: Vec<u32>,
    /// Why; `None` when their bytes came, and were not the image's.
    pub error: Option<FillError>,
}

/// Keeps the memory for the next piece, unless half a block of it waits in a seam.
fn keep_buffer(bytes: Bytes) {
    if let Ok(bytes) = bytes.try_into_mut()
        && bytes.capacity() <= BUFFER_BYTES_MAX
    {
        BUFFER.set(bytes.into());
    }
}
