//! Raw DEFLATE, always with a window of 32 KiB: `windowbits` of the configuration does not matter.

use std::cell::RefCell;

use flate2::{Decompress, FlushDecompress, Status};

use super::CodecFault;

thread_local! {
    /// A decoder for each thread: making one costs more than a small pcluster.
    static DECODER: RefCell<Decompress> = RefCell::new(Decompress::new(false));
}

/// Fills `out`.
///
/// A stream that holds just as much is what nearly every pcluster has, and what libdeflate decodes in two thirds of the
/// time. What it does not take is decoded as far as is wanted, which also tells what is wrong with it.
pub(super) fn decode(stream: &[u8], out: &mut [u8]) -> Result<(), CodecFault> {
    if decode_whole(stream, out) { Ok(()) } else { decode_beginning(stream, out) }
}

/// Fills `out` if the stream ends with it.
#[cfg(feature = "encode")]
fn decode_whole(stream: &[u8], out: &mut [u8]) -> bool {
    use libdeflater::Decompressor;

    thread_local! {
        static DECODER: RefCell<Decompressor> = RefCell::new(Decompressor::new());
    }
    let found = DECODER.with_borrow_mut(|decoder| decoder.deflate_decompress(stream, out));
    found.is_ok_and(|found| found == out.len())
}

/// Without the encoder's library there is one decoder.
#[cfg(not(feature = "encode"))]
fn decode_whole(_stream: &[u8], _out: &mut [u8]) -> bool {
    false
}

/// Fills `out` with the beginning of what the stream holds.
fn decode_beginning(stream: &[u8], out: &mut [u8]) -> Result<(), CodecFault> {
    DECODER.with_borrow_mut(|decoder| {
        decoder.reset(false);
        let (mut read, mut done) = (0, 0);
        while done < out.len() {
            let (before_in, before_out) = (decoder.total_in(), decoder.total_out());
            let status = decoder.decompress(&stream[read..], &mut out[done..], FlushDecompress::None);
            let status = status.map_err(|_| CodecFault::Damaged)?;
            // Both advance by at most what was handed over.
            let stepped = |now: u64, before: u64| usize::try_from(now - before).unwrap_or(usize::MAX);
            let (took, gave) =
                (stepped(decoder.total_in(), before_in), stepped(decoder.total_out(), before_out));
            read += took;
            done += gave;
            let stuck = took == 0 && gave == 0;
            if done < out.len() && (stuck || status == Status::StreamEnd) {
                return Err(CodecFault::Short { found: done, wanted: out.len() });
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::write::DeflateEncoder;
    use proptest::prelude::*;

    use super::*;

    fn encode(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("memory takes it");
        encoder.finish().expect("memory takes it")
    }

    proptest! {
        #[test]
        fn every_prefix_decodes_whatever_stands_behind_the_stream(
            words in prop::collection::vec(0_u8..20, 1..5000),
            cut in any::<prop::sample::Index>(),
            behind in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut stream = encode(&words);
            stream.extend(behind);
            let mut whole = vec![0; words.len()];
            decode(&stream, &mut whole).expect("well formed");
            prop_assert_eq!(&whole, &words);
            let mut beginning = vec![0; cut.index(words.len())];
            decode(&stream, &mut beginning).expect("well formed");
            prop_assert_eq!(&beginning[..], &words[..beginning.len()]);
            let wanted = words.len() + 1;
            let short = CodecFault::Short { found: words.len(), wanted };
            prop_assert_eq!(decode(&stream, &mut vec![0; wanted]), Err(short));
        }

        #[test]
        fn both_decoders_agree_on_any_damage(
            words in prop::collection::vec(0_u8..20, 1..2000),
            at in any::<prop::sample::Index>(),
            bit in 0_u8..8,
        ) {
            let mut stream = encode(&words);
            let at = at.index(stream.len());
            stream[at] ^= 1 << bit;
            let (mut fast, mut sure) = (vec![0; words.len()], vec![0; words.len()]);
            if decode_whole(&stream, &mut fast) {
                decode_beginning(&stream, &mut sure).expect("the other decoder took it");
                prop_assert_eq!(fast, sure);
            }
        }
    }
}
