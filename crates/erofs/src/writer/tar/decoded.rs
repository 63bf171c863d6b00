//! [`decode_archive`]: an archive that may be compressed, told by its first bytes.

use std::io::{self, Chain, Cursor, Read};

/// What an archive is compressed with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ArchiveCodec {
    /// gzip: RFC 1952.
    Gzip,
    /// Zstandard: RFC 8878.
    Zstd,
    /// xz.
    Xz,
}

impl ArchiveCodec {
    const ALL: [Self; 3] = [Self::Gzip, Self::Zstd, Self::Xz];

    /// What files of this kind begin with.
    fn magic(self) -> &'static [u8] {
        match self {
            Self::Gzip => &[0x1f, 0x8b],
            Self::Zstd => &[0x28, 0xb5, 0x2f, 0xfd],
            Self::Xz => &[0xfd, b'7', b'z', b'X', b'Z', 0],
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Xz => "xz",
        }
    }
}

/// Bytes that tell every kind.
const MAGIC_BYTES_MAX: usize = 6;
/// The largest dictionary of xz's own presets, 64 MiB, and what its decoder needs beside it: in KiB.
#[cfg(feature = "lzma")]
const XZ_MEMORY_KIB_MAX: u32 = 72 << 10;
/// The largest window without which `zstd -d` asks for `--long`: 128 MiB.
#[cfg(feature = "zstd")]
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Reads the first bytes of `archive`, and returns what they say it is compressed with and all its bytes.
///
/// # Errors
///
/// Those of `archive`.
pub fn peek_archive<R: Read>(mut archive: R) -> io::Result<(Option<ArchiveCodec>, PeekedArchive<R>)> {
    let mut first = Vec::with_capacity(MAGIC_BYTES_MAX);
    archive.by_ref().take(MAGIC_BYTES_MAX as u64).read_to_end(&mut first)?;
    let codec = ArchiveCodec::ALL.into_iter().find(|codec| first.starts_with(codec.magic()));
    Ok((codec, Cursor::new(first).chain(archive)))
}

/// An archive whose first bytes have been looked at.
pub type PeekedArchive<R> = Chain<Cursor<Vec<u8>>, R>;

/// Decodes `archive` on the way, if its first bytes say that it is compressed: gzip, Zstandard and xz are known.
///
/// Several compressed files behind each other are one archive, as for the tools that make them. Memory is bounded
/// whatever the bytes say: windows above 128 MiB and dictionaries above 64 MiB are refused.
///
/// # Errors
///
/// Those of `archive`, and [`io::ErrorKind::Unsupported`] when this build lacks the codec.
///
/// # Examples
///
/// ```
/// use std::io::{Cursor, Read};
///
/// use larder_erofs::writer::decode_archive;
///
/// let mut bytes = Vec::new();
/// decode_archive(Cursor::new(b"as it is"))?.read_to_end(&mut bytes)?;
/// assert_eq!(bytes, b"as it is");
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn decode_archive<'a, R: Read + Send + 'a>(archive: R) -> io::Result<Box<dyn Read + Send + 'a>> {
    let (codec, archive) = peek_archive(archive)?;
    match codec {
        None => Ok(Box::new(archive)),
        Some(ArchiveCodec::Gzip) => gzip(archive),
        Some(ArchiveCodec::Zstd) => zstd(archive),
        Some(ArchiveCodec::Xz) => xz(archive),
    }
}

#[cfg(feature = "deflate")]
fn gzip<'a>(archive: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    Ok(Box::new(flate2::read::MultiGzDecoder::new(archive)))
}

#[cfg(not(feature = "deflate"))]
fn gzip<'a>(_: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    Err(lacking(ArchiveCodec::Gzip))
}

#[cfg(feature = "lzma")]
fn xz<'a>(archive: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    // Its decoder reads byte by byte.
    let archive = io::BufReader::with_capacity(1 << 16, archive);
    Ok(Box::new(lzma_rust2::XzReader::new_mem_limit(archive, true, XZ_MEMORY_KIB_MAX)))
}

#[cfg(not(feature = "lzma"))]
fn xz<'a>(_: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    Err(lacking(ArchiveCodec::Xz))
}

#[cfg(feature = "zstd")]
fn zstd<'a>(archive: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    Ok(Box::new(stream::Frames::new(archive)?))
}

#[cfg(not(feature = "zstd"))]
fn zstd<'a>(_: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    Err(lacking(ArchiveCodec::Zstd))
}

#[cfg(not(all(feature = "deflate", feature = "lzma", feature = "zstd")))]
fn lacking(codec: ArchiveCodec) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, format!("this build of Larder cannot decode {}", codec.name()))
}

#[cfg(feature = "zstd")]
mod stream {
    use std::io::{self, Read};

    use zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer};

    use super::ZSTD_WINDOW_LOG_MAX;

    /// Decodes frames that follow each other.
    pub struct Frames<R> {
        archive: R,
        decoder: DCtx<'static>,
        buffer: Vec<u8>,
        /// What of the buffer has still to be decoded.
        pending: std::ops::Range<usize>,
        /// Whether the last frame met its end.
        complete: bool,
    }

    impl<R: Read> Frames<R> {
        pub fn new(archive: R) -> io::Result<Self> {
            let mut decoder = DCtx::try_create().ok_or(io::ErrorKind::OutOfMemory)?;
            decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX)).map_err(damaged)?;
            let buffer = vec![0; DCtx::in_size()];
            Ok(Self { archive, decoder, buffer, pending: 0..0, complete: true })
        }
    }

    impl<R: Read> Read for Frames<R> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            if buf.is_empty() {
                return Ok(0);
            }
            loop {
                let mut ended = false;
                if self.pending.is_empty() {
                    let len = self.archive.read(&mut self.buffer)?;
                    self.pending = 0..len;
                    ended = len == 0;
                }
                if ended && self.complete {
                    return Ok(0);
                }
                let mut input = InBuffer::around(&self.buffer[self.pending.clone()]);
                let mut output = OutBuffer::around(&mut *buf);
                let left = self.decoder.decompress_stream(&mut output, &mut input).map_err(damaged)?;
                self.pending.start += input.pos();
                self.complete = left == 0;
                match output.pos() {
                    0 if ended => return Err(io::ErrorKind::UnexpectedEof.into()),
                    0 => {}
                    len => return Ok(len),
                }
            }
        }
    }

    fn damaged(code: zstd_safe::ErrorCode) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, zstd_safe::get_error_name(code))
    }
}

#[cfg(all(test, feature = "deflate", feature = "lzma", feature = "zstd"))]
mod tests {
    use std::io::Write;

    use super::*;

    fn plain() -> Vec<u8> {
        (0..300_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect()
    }

    /// Each kind, twice behind each other.
    fn compressed(codec: ArchiveCodec, bytes: &[u8]) -> Vec<u8> {
        let once = |bytes: &[u8]| match codec {
            ArchiveCodec::Gzip => {
                let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                writer.write_all(bytes).and_then(|()| writer.finish()).expect("in memory")
            }
            ArchiveCodec::Zstd => {
                let mut out = vec![0; zstd_safe::compress_bound(bytes.len())];
                let len = zstd_safe::compress(&mut out[..], bytes, 1).expect("room");
                out.truncate(len);
                out
            }
            ArchiveCodec::Xz => {
                let options = lzma_rust2::XzOptions::with_preset(0);
                let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).expect("sound options");
                writer.write_all(bytes).and_then(|()| writer.finish()).expect("in memory")
            }
        };
        let (one, two) = bytes.split_at(bytes.len() / 3);
        [once(one), once(two)].concat()
    }

    fn decoded(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        decode_archive(bytes)?.read_to_end(&mut out).map(|_| out)
    }

    #[test]
    fn each_kind_is_told_by_its_beginning_and_decoded_to_its_end() {
        let plain = plain();
        assert!(decoded(&plain).expect("nothing to do") == plain);
        assert_eq!(decoded(b"").expect("an empty one"), b"");
        for codec in ArchiveCodec::ALL {
            let bytes = compressed(codec, &plain);
            assert!(bytes.len() < plain.len() / 2, "{codec:?}");
            assert_eq!(peek_archive(&bytes[..]).expect("in memory").0, Some(codec));
            assert!(decoded(&bytes).expect("sound") == plain, "{codec:?}");
        }
    }

    #[test]
    fn what_is_cut_short_or_damaged_is_an_error() {
        for codec in ArchiveCodec::ALL {
            let bytes = compressed(codec, &plain());
            decoded(&bytes[..bytes.len() - 9]).expect_err(codec.name());
            let mut damaged = bytes.clone();
            damaged[bytes.len() / 2] ^= 0x55;
            let wrong = decoded(&damaged).map_or(true, |out| out != plain());
            assert!(wrong, "{codec:?}: damage was not seen");
        }
    }
}
