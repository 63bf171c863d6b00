//! [`Compressor`]: a codec with the settings it encodes with.

use std::str::FromStr;

use crate::Codec;

/// A codec with the settings it encodes with.
///
/// Written as `mkfs.erofs -z` has it: a name, then `,level=N` and `,dictsize=BYTES`, or just `,N`.
///
/// ```
/// use larder_erofs::writer::Compressor;
///
/// assert_eq!("lz4".parse(), Ok(Compressor::Lz4));
/// assert_eq!("lz4hc,12".parse(), Ok(Compressor::Lz4Hc { level: 12 }));
/// assert_eq!("zstd,level=9".parse(), Ok(Compressor::Zstd { level: 9, window_bytes: 0 }));
/// assert!("zstd,level=23".parse::<Compressor>().is_err());
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Compressor {
    /// LZ4, the fast encoder.
    Lz4,
    /// LZ4, encoded with more effort.
    Lz4Hc {
        /// Effort: 0 to 12.
        level: u8,
    },
    /// MicroLZMA.
    Lzma {
        /// Effort: 0 to 9.
        level: u8,
        /// Dictionary, 4 KiB to 8 MiB; 0 for one that fits the pclusters.
        dict_bytes: u32,
        /// Literal context bits, literal position bits (4 together at most), position bits.
        properties: [u8; 3],
    },
    /// Raw DEFLATE.
    Deflate {
        /// Effort: 1 to 12.
        level: u8,
    },
    /// Zstandard.
    Zstd {
        /// Effort: 1 to 22.
        level: u8,
        /// Window, a power of two from 1 KiB to 1 MiB; 0 for one that fits the pclusters.
        window_bytes: u32,
    },
}

/// Why a compressor cannot be had.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "each message is the documentation of its variant and fields")]
pub enum CompressorFault {
    #[error("there is no compressor called {name}")]
    Name { name: String },
    #[error("{name} has no setting {setting}")]
    Setting { name: &'static str, setting: String },
    #[error("{name}: {setting} must be {range}")]
    Range { name: &'static str, setting: &'static str, range: &'static str },
}

impl Compressor {
    /// The codec that readers need.
    pub const fn codec(self) -> Codec {
        match self {
            Self::Lz4 | Self::Lz4Hc { .. } => Codec::Lz4,
            Self::Lzma { .. } => Codec::Lzma,
            Self::Deflate { .. } => Codec::Deflate,
            Self::Zstd { .. } => Codec::Zstd,
        }
    }

    /// The name that `mkfs.erofs -z` knows it by.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lz4Hc { .. } => "lz4hc",
            _ => self.codec().name(),
        }
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// [`CompressorFault::Range`] names the one that is out of its range.
    pub fn check(self) -> Result<(), CompressorFault> {
        let name = self.name();
        let range = |good: bool, setting, range| {
            if good { Ok(()) } else { Err(CompressorFault::Range { name, setting, range }) }
        };
        match self {
            Self::Lz4 => Ok(()),
            Self::Lz4Hc { level } => range(level <= 12, "level", "0 to 12"),
            Self::Deflate { level } => range((1..=12).contains(&level), "level", "1 to 12"),
            Self::Lzma { level, dict_bytes, properties: [lc, lp, pb] } => {
                range(level <= 9, "level", "0 to 9")?;
                let fits = dict_bytes == 0 || (4096..=8 << 20).contains(&dict_bytes);
                range(fits, "dictsize", "4096 to 8388608")?;
                range(u16::from(lc) + u16::from(lp) <= 4, "lc + lp", "at most 4")?;
                range(pb <= 4, "pb", "at most 4")
            }
            Self::Zstd { level, window_bytes } => {
                range((1..=22).contains(&level), "level", "1 to 22")?;
                let fits = (1024..=1 << 20).contains(&window_bytes) && window_bytes.is_power_of_two();
                range(window_bytes == 0 || fits, "dictsize", "a power of two from 1024 to 1048576")
            }
        }
    }

    /// The compressor of that name with its usual settings.
    fn usual(name: &str) -> Option<Self> {
        Some(match name {
            "lz4" => Self::Lz4,
            "lz4hc" => Self::Lz4Hc { level: 9 },
            // One less than the library's: pclusters are short, and 0.3 % of size cost an eighth of the time.
            "lzma" => Self::Lzma { level: 5, dict_bytes: 0, properties: [3, 0, 2] },
            "deflate" | "libdeflate" => Self::Deflate { level: 1 },
            "zstd" => Self::Zstd { level: 3, window_bytes: 0 },
            _ => return None,
        })
    }

    /// Takes one setting; `None` when there is none of that name or the value is no number.
    fn set(&mut self, setting: &str, value: &str) -> Option<()> {
        let byte = || value.parse::<u8>().ok();
        let bytes = || value.parse::<u32>().ok();
        match (self, setting) {
            (
                Self::Lz4Hc { level }
                | Self::Lzma { level, .. }
                | Self::Deflate { level }
                | Self::Zstd { level, .. },
                "level",
            ) => *level = byte()?,
            (Self::Lzma { dict_bytes, .. }, "dictsize") => *dict_bytes = bytes()?,
            (Self::Zstd { window_bytes, .. }, "dictsize") => *window_bytes = bytes()?,
            (Self::Lzma { properties: [lc, _, _], .. }, "lc") => *lc = byte()?,
            (Self::Lzma { properties: [_, lp, _], .. }, "lp") => *lp = byte()?,
            (Self::Lzma { properties: [_, _, pb], .. }, "pb") => *pb = byte()?,
            _ => return None,
        }
        Some(())
    }
}

impl FromStr for Compressor {
    type Err = CompressorFault;

    fn from_str(text: &str) -> Result<Self, CompressorFault> {
        let mut words = text.split(',');
        let name = words.next().unwrap_or_default();
        let mut compressor =
            Self::usual(name).ok_or_else(|| CompressorFault::Name { name: name.to_owned() })?;
        for word in words {
            let (setting, value) = word.split_once('=').unwrap_or(("level", word));
            let unknown = || CompressorFault::Setting { name: compressor.name(), setting: word.to_owned() };
            let fault = unknown();
            compressor.set(setting, value).ok_or(fault)?;
        }
        compressor.check()?;
        Ok(compressor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_mkfs_are_understood() {
        let cases = [
            ("lz4", Compressor::Lz4),
            ("lz4hc", Compressor::Lz4Hc { level: 9 }),
            ("lz4hc,level=3", Compressor::Lz4Hc { level: 3 }),
            ("libdeflate,12", Compressor::Deflate { level: 12 }),
            ("lzma", Compressor::Lzma { level: 5, dict_bytes: 0, properties: [3, 0, 2] }),
            (
                "lzma,level=1,dictsize=65536,lc=1,lp=2,pb=0",
                Compressor::Lzma { level: 1, dict_bytes: 65536, properties: [1, 2, 0] },
            ),
            ("zstd,22,dictsize=32768", Compressor::Zstd { level: 22, window_bytes: 32768 }),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_compressor_is_refused_by_name() {
        for text in [
            "",
            "zip",
            "lz4,level=1",
            "lz4hc,13",
            "zstd,0",
            "deflate,0",
            "zstd,dictsize=1000",
            "lzma,lc=4,lp=1",
        ] {
            text.parse::<Compressor>().expect_err(text);
        }
        let fault = "zstd,levle=1".parse::<Compressor>().expect_err("no such setting");
        assert_eq!(fault.to_string(), "zstd has no setting levle=1");
    }
}
