//! [`Codec`]: the four ways to encode a pcluster, and one function that undoes them.

mod config;
#[cfg(feature = "deflate")]
mod deflate;
mod lz4;
#[cfg(feature = "lzma")]
mod lzma;
#[cfg(feature = "zstd")]
mod zstd;

use std::fmt;

pub(crate) use config::{CodecConfigs, PCLUSTER_BYTES_MAX};

/// A codec of compressed files, by its number on disk.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Codec {
    /// 0: one raw LZ4 block (Linux 5.3).
    Lz4,
    /// 1: MicroLZMA, an LZMA1 stream whose header is one byte (Linux 5.16).
    Lzma,
    /// 2: raw DEFLATE (Linux 6.6).
    Deflate,
    /// 3: one Zstandard frame (Linux 6.10).
    Zstd,
}

impl Codec {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Lz4, Self::Lzma, Self::Deflate, Self::Zstd];

    /// Reads the number of a codec as indexes and extent records name it.
    pub(crate) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// The number of the codec on disk.
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Lz4 => 0,
            Self::Lzma => 1,
            Self::Deflate => 2,
            Self::Zstd => 3,
        }
    }

    /// The bit of the codec in `available_compr_algs`.
    pub(crate) const fn bit(self) -> u16 {
        1 << self as u16
    }

    /// Whether this build can decode it: the cargo feature of the same name is on.
    pub const fn is_built(self) -> bool {
        match self {
            Self::Lz4 => true,
            Self::Lzma => cfg!(feature = "lzma"),
            Self::Deflate => cfg!(feature = "deflate"),
            Self::Zstd => cfg!(feature = "zstd"),
        }
    }

    /// The name that `mkfs.erofs -z` knows it by.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lz4 => "lz4",
            Self::Lzma => "lzma",
            Self::Deflate => "deflate",
            Self::Zstd => "zstd",
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is wrong with an encoded pcluster.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "each message is the documentation of its variant and fields")]
pub enum CodecFault {
    #[error("it begins with a block of zeros")]
    Empty,
    #[error("it ends after {found} of {wanted} bytes")]
    Short { found: usize, wanted: usize },
    #[error("it is damaged")]
    Damaged,
    #[error("it passes the end of the image")]
    Outside,
    #[error("this build lacks the codec")]
    NotBuilt,
}

/// Decodes the first `out.len()` bytes of `stream`, whose leading zeros are gone already.
///
/// What follows in the stream is not looked at: the same pcluster may serve several extents, each of which is
/// a prefix of it (`Z_EROFS_LI_PARTIAL_REF`). Takes memory by `out` and the codec's window, never by what the
/// stream says.
pub(crate) fn decode(
    codec: Codec,
    configs: &CodecConfigs,
    stream: &[u8],
    out: &mut [u8],
) -> Result<(), CodecFault> {
    match codec {
        Codec::Lz4 => lz4::decode(stream, out),
        #[cfg(feature = "lzma")]
        Codec::Lzma => lzma::decode(stream, configs.lzma_dict_bytes, out),
        #[cfg(feature = "deflate")]
        Codec::Deflate => deflate::decode(stream, out),
        #[cfg(feature = "zstd")]
        Codec::Zstd => zstd::decode(stream, out),
        #[allow(unreachable_patterns, reason = "reached when a codec is switched off")]
        _ => {
            let _ = configs;
            Err(CodecFault::NotBuilt)
        }
    }
}
