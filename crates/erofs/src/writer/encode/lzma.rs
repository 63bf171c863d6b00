//! MicroLZMA, whose encoder stops where the space ends.

use lzma_rust2::{LzmaOptions, MicroLzmaEncoder};

use super::super::image_options::OptionsFault;
use super::{Fill, Filled};

pub(super) struct Lzma(MicroLzmaEncoder);

impl Lzma {
    pub(super) fn new(level: u8, dict_bytes: u32, [lc, lp, pb]: [u8; 3]) -> Result<Self, OptionsFault> {
        let mut options = LzmaOptions::with_preset(level.into());
        options.dict_size = dict_bytes;
        (options.lc, options.lp, options.pb) = (lc.into(), lp.into(), pb.into());
        let encoder = MicroLzmaEncoder::new(&options);
        encoder.map(Self).map_err(|_| OptionsFault::NotBuilt { name: "lzma with these settings" })
    }
}

impl Fill for Lzma {
    fn fill(&mut self, input: &[u8], out: &mut [u8]) -> Option<Filled> {
        let (consumed, produced) = self.0.compress_prefix(input, out).ok()?;
        (consumed > 0).then_some(Filled { consumed, produced })
    }
}
