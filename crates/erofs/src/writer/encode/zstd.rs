//! Zstandard: one frame a pcluster, with a window that readers have room for.

use zstd_safe::{CCtx, CParameter, ResetDirective, compress_bound};

use super::super::image_options::OptionsFault;
use super::search::Search;
use super::{Fill, Filled};

pub(super) struct Zstd {
    context: CCtx<'static>,
    search: Search,
    scratch: Vec<u8>,
}

impl Zstd {
    pub(super) fn new(level: u8, window_bytes: u32) -> Result<Self, OptionsFault> {
        let failed = OptionsFault::NotBuilt { name: "zstd with these settings" };
        let mut context = CCtx::try_create().ok_or_else(|| failed.clone())?;
        context
            .set_parameter(CParameter::CompressionLevel(level.into()))
            .and_then(|_| context.set_parameter(CParameter::WindowLog(window_bytes.ilog2())))
            .map_err(|_| failed)?;
        Ok(Self { context, search: Search::default(), scratch: Vec::new() })
    }
}

impl Fill for Zstd {
    fn fill(&mut self, input: &[u8], out: &mut [u8]) -> Option<Filled> {
        let Self { context, search, scratch } = self;
        search.run(input.len(), out.len(), |len| {
            let bound = compress_bound(len);
            if scratch.len() < bound {
                scratch.resize(bound, 0);
            }
            context.reset(ResetDirective::SessionOnly).ok()?;
            let produced = context.compress2(&mut scratch[..], &input[..len]).ok()?;
            if let Some(out) = out.get_mut(..produced) {
                out.copy_from_slice(&scratch[..produced]);
            }
            Some(produced)
        })
    }

    fn forget(&mut self) {
        self.search = Search::default();
    }
}
