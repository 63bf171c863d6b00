//! Zstandard: one frame, with a window of 1 MiB at most.

use std::cell::RefCell;

use zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, ResetDirective};

use super::CodecFault;

/// `Z_EROFS_ZSTD_MAX_DICT_SIZE`, fs/erofs/decompressor_zstd.c (v7.3): 1 MiB.
const WINDOW_LOG_MAX: u32 = 20;

thread_local! {
    /// A decoder for each thread: its window stays allocated from one pcluster to the next.
    static DECODER: RefCell<Option<DCtx<'static>>> = const { RefCell::new(None) };
}

/// Fills `out`; the frame may hold more.
pub(super) fn decode(stream: &[u8], out: &mut [u8]) -> Result<(), CodecFault> {
    DECODER.with_borrow_mut(|decoder| {
        let decoder = match decoder {
            Some(decoder) => decoder,
            None => decoder.insert(DCtx::try_create().ok_or(CodecFault::Damaged)?),
        };
        decoder.reset(ResetDirective::SessionAndParameters).map_err(|_| CodecFault::Damaged)?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX)).map_err(|_| CodecFault::Damaged)?;
        let wanted = out.len();
        let mut input = InBuffer::around(stream);
        let mut output = OutBuffer::around(out);
        while output.pos() < wanted {
            let before = (input.pos(), output.pos());
            let left = decoder.decompress_stream(&mut output, &mut input).map_err(|_| CodecFault::Damaged)?;
            let stuck = (input.pos(), output.pos()) == before;
            if output.pos() < wanted && (stuck || left == 0) {
                return Err(CodecFault::Short { found: output.pos(), wanted });
            }
        }
        Ok(())
    })
}
