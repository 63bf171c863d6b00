//! [`Encoder`]: makes one pcluster of as much input as fits into it.

#[cfg(all(feature = "encode", feature = "deflate"))]
mod deflate;
#[cfg(feature = "encode")]
mod lz4;
#[cfg(all(feature = "encode", feature = "lzma"))]
mod lzma;
#[cfg(all(feature = "encode", feature = "deflate"))]
mod search;
#[cfg(all(feature = "encode", feature = "zstd"))]
mod zstd;

use super::compressor::Compressor;
use super::image_options::OptionsFault;

/// What became of a piece of input.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Filled {
    /// Bytes of input that are in the pcluster.
    pub consumed: usize,
    /// Bytes of the pcluster.
    pub produced: usize,
}

/// One thread's encoder with its settings.
pub(super) struct Encoder(Box<dyn Fill>);

/// How a codec fills a pcluster.
trait Fill {
    /// Encodes the longest beginning of `input` that fits into `out`, or nearly so.
    ///
    /// `None` when nothing sensible fits. The result depends on the calls since the last
    /// [`forget`](Self::forget) only.
    fn fill(&mut self, input: &[u8], out: &mut [u8]) -> Option<Filled>;

    /// Forgets what former calls have taught: predictions begin anew.
    fn forget(&mut self) {}
}

impl Encoder {
    /// Makes an encoder for pclusters of at most `pcluster_bytes`.
    pub(super) fn new(compressor: Compressor, pcluster_bytes: u32) -> Result<Self, OptionsFault> {
        compressor.check()?;
        let fill: Result<Box<dyn Fill>, OptionsFault> = match compressor {
            #[cfg(feature = "encode")]
            Compressor::Lz4 => Ok(Box::new(lz4::Lz4)),
            #[cfg(feature = "encode")]
            Compressor::Lz4Hc { level } => Ok(Box::new(lz4::Lz4Hc { level: level.into() })),
            #[cfg(all(feature = "encode", feature = "lzma"))]
            Compressor::Lzma { level, properties, .. } => {
                let dictionary = dictionary(compressor, pcluster_bytes);
                Ok(Box::new(lzma::Lzma::new(level, dictionary, properties)?))
            }
            #[cfg(all(feature = "encode", feature = "deflate"))]
            Compressor::Deflate { level } => Ok(Box::new(deflate::Deflate::new(level)?)),
            #[cfg(all(feature = "encode", feature = "zstd"))]
            Compressor::Zstd { level, .. } => {
                let window = dictionary(compressor, pcluster_bytes);
                Ok(Box::new(zstd::Zstd::new(level, window, pcluster_bytes)?))
            }
            #[allow(unreachable_patterns, reason = "reached when a codec is switched off")]
            _ => {
                let _ = pcluster_bytes;
                Err(OptionsFault::NotBuilt { name: compressor.name() })
            }
        };
        Ok(Self(fill?))
    }

    /// Encodes the longest beginning of `input` that fits into `out`, or nearly so.
    pub(super) fn fill(&mut self, input: &[u8], out: &mut [u8]) -> Option<Filled> {
        self.0.fill(input, out)
    }

    /// Forgets what former calls have taught.
    pub(super) fn forget(&mut self) {
        self.0.forget();
    }
}

/// The dictionary or window in bytes, as readers must be told: for LZMA and Zstandard.
///
/// Where nothing was said, eight times the pcluster for Zstandard: what a pcluster holds is rarely longer. For LZMA, whose
/// encoder takes longer the more memory it goes about in, four times: images are as small.
pub(super) fn dictionary(compressor: Compressor, pcluster_bytes: u32) -> u32 {
    match compressor {
        Compressor::Lzma { dict_bytes: 0, .. } => pcluster_bytes.saturating_mul(4).clamp(32 << 10, 8 << 20),
        Compressor::Lzma { dict_bytes, .. } => dict_bytes,
        Compressor::Zstd { window_bytes: 0, .. } => {
            pcluster_bytes.next_power_of_two().saturating_mul(8).clamp(32 << 10, 1 << 20)
        }
        Compressor::Zstd { window_bytes, .. } => window_bytes,
        _ => 0,
    }
}
