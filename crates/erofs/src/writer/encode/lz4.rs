//! LZ4, whose own library fills a given space.

use lzzzz::{lz4, lz4_hc};

use super::{Fill, Filled};

/// The fast encoder.
pub(super) struct Lz4;

/// The encoder that tries harder.
pub(super) struct Lz4Hc {
    pub level: i32,
}

impl Fill for Lz4 {
    fn fill(&mut self, input: &[u8], out: &mut [u8]) -> Option<Filled> {
        filled(lz4::compress_fill(input, out).ok()?)
    }
}

impl Fill for Lz4Hc {
    fn fill(&mut self, input: &[u8], out: &mut [u8]) -> Option<Filled> {
        filled(lz4_hc::compress_fill(input, out, self.level).ok()?)
    }
}

fn filled((consumed, produced): (usize, usize)) -> Option<Filled> {
    (consumed > 0).then_some(Filled { consumed, produced })
}
