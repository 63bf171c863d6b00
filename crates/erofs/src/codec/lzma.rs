//! MicroLZMA: an LZMA1 stream without its header, whose first byte is the bitwise NOT of the properties.

use std::io::Read;

use lzma_rust2::LzmaReader;

use super::CodecFault;

/// Most literal context and position bits together: what the kernel's decoder takes (lib/xz, v7.3).
const LITERAL_BITS_MAX: u8 = 4;
/// Longest match: how far a stream that holds more than is wanted may go beyond it in one step.
const MATCH_BYTES_MAX: u64 = 273;

/// Fills `out`; the dictionary is as large as the configuration says, or as `out`, whichever is smaller.
pub(super) fn decode(stream: &[u8], dict_bytes: u32, out: &mut [u8]) -> Result<(), CodecFault> {
    let (&first, rest) = stream.split_first().ok_or(CodecFault::Empty)?;
    let properties = !first;
    let (literal_context, literal_position) = (properties % 9, properties / 9 % 5);
    if literal_context + literal_position > LITERAL_BITS_MAX {
        return Err(CodecFault::Damaged);
    }
    // An LZMA1 stream proper begins with a zero byte, which the properties have replaced.
    let stream = [0].as_slice().chain(rest);
    let dict_bytes = u32::try_from(out.len()).map_or(dict_bytes, |len| dict_bytes.min(len.max(4096)));
    // A size of more than is wanted lets the last match go beyond it: a prefix may end in the middle of one.
    let size = out.len() as u64 + MATCH_BYTES_MAX;
    let reader = LzmaReader::new_with_props(stream, size, properties, dict_bytes, None);
    let mut reader = reader.map_err(|_| CodecFault::Damaged)?;
    reader.read_exact(out).map_err(|_| CodecFault::Damaged)
}
