//! Raw DEFLATE, by libdeflate, which encodes whole inputs only.

use libdeflater::{CompressionLvl, Compressor};

use super::super::image_options::OptionsFault;
use super::search::Search;
use super::{Fill, Filled};

/// The first byte of a stored block that is not the last. It must not be zero; its upper five bits mean nothing.
const STORED: u8 = 0;
const STORED_MARKED: u8 = 8;

pub(super) struct Deflate {
    compressor: Compressor,
    search: Search,
    scratch: Vec<u8>,
}

impl Deflate {
    pub(super) fn new(level: u8) -> Result<Self, OptionsFault> {
        let level = CompressionLvl::new(level.into());
        let level = level.map_err(|_| OptionsFault::NotBuilt { name: "deflate with this level" })?;
        Ok(Self { compressor: Compressor::new(level), search: Search::default(), scratch: Vec::new() })
    }
}

impl Fill for Deflate {
    fn fill(&mut self, input: &[u8], out: &mut [u8]) -> Option<Filled> {
        let Self { compressor, search, scratch } = self;
        let filled = search.run(input.len(), out.len(), |len| {
            let bound = compressor.deflate_compress_bound(len);
            if scratch.len() < bound {
                scratch.resize(bound, 0);
            }
            let produced = compressor.deflate_compress(&input[..len], scratch).ok()?;
            if let Some(out) = out.get_mut(..produced) {
                out.copy_from_slice(&scratch[..produced]);
            }
            Some(produced)
        })?;
        if out[0] == STORED {
            out[0] = STORED_MARKED;
        }
        Some(filled)
    }

    fn forget(&mut self) {
        self.search = Search::default();
    }
}
