//! Raw DEFLATE, always with a window of 32 KiB: `windowbits` of the configuration does not matter.

use std::cell::RefCell;

use flate2::{Decompress, FlushDecompress, Status};

use super::CodecFault;

thread_local! {
    /// A decoder for each thread: making one costs more than a small pcluster.
    static DECODER: RefCell<Decompress> = RefCell::new(Decompress::new(false));
}

/// Fills `out`.
pub(super) fn decode(stream: &[u8], out: &mut [u8]) -> Result<(), CodecFault> {
    DECODER.with_borrow_mut(|decoder| {
        decoder.reset(false);
        let (mut read, mut done) = (0, 0);
        while done < out.len() {
            let (before_in, before_out) = (decoder.total_in(), decoder.total_out());
            let status = decoder.decompress(&stream[read..], &mut out[done..], FlushDecompress::None);
            let status = status.map_err(|_| CodecFault::Damaged)?;
            // Both advance by at most what was handed over.
            let stepped = |now: u64, before: u64| usize::try_from(now - before).unwrap_or(usize::MAX);
            let (took, gave) =
                (stepped(decoder.total_in(), before_in), stepped(decoder.total_out(), before_out));
            read += took;
            done += gave;
            let stuck = took == 0 && gave == 0;
            if done < out.len() && (stuck || status == Status::StreamEnd) {
                return Err(CodecFault::Short { found: done, wanted: out.len() });
            }
        }
        Ok(())
    })
}
