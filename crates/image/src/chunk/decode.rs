//! From stored bytes to decoded ones: digest first, then zstd.

use std::sync::Mutex;

use bytes::Bytes;
use zstd::zstd_safe::{self, DCtx};

use super::codec::split_skippable;
use super::{Chunk, ChunkFault, ChunkHash, Encoding};
use crate::{Error, digest};

/// Stored bytes of a chunk that its digest has vouched for.
#[derive(Clone, Debug)]
pub struct Verified {
    number: u32,
    stored: Bytes,
}

impl Chunk<'_> {
    /// Checks the stored bytes of this chunk against their digest, in constant memory.
    ///
    /// The digest may cover the whole range up to the next chunk, or the first zstd frame in it alone: producers differ
    /// when padding follows.
    ///
    /// # Errors
    ///
    /// [`Error::Chunk`] when they are not the bytes the index vouches for.
    pub fn verify(&self, stored: Bytes) -> Result<Verified, Error> {
        let (expected, found) = (self.stored.len(), stored.len() as u64);
        if expected != found {
            return Err(self.fault(ChunkFault::StoredLength { expected, found }));
        }
        let whole = self.matches(&stored);
        self.vouched(stored, whole)
    }

    /// The same for many chunks, with less work: see [`sha256_all`](crate::digest::sha256_all). The results are in the order of
    /// the chunks.
    pub fn verify_all(chunks: Vec<(Self, Bytes)>) -> Vec<Result<Verified, Error>> {
        let is_sha256 = |(chunk, stored): &&(Self, Bytes)| {
            chunk.hash == ChunkHash::Sha256 && chunk.stored.len() == stored.len() as u64
        };
        let texts: Vec<&[u8]> = chunks.iter().filter(is_sha256).map(|(_, stored)| &stored[..]).collect();
        let mut digests = digest::sha256_all(&texts).into_iter();
        let verified = |one: (Self, Bytes)| match Some(&one).filter(is_sha256).and_then(|_| digests.next()) {
            Some(digest) => one.0.vouched(one.1, one.0.checksum == digest),
            None => one.0.verify(one.1),
        };
        chunks.into_iter().map(verified).collect()
    }

    /// What the digest says of `stored`, when it is known whether it covers the `whole` of it.
    fn vouched(&self, stored: Bytes, whole: bool) -> Result<Verified, Error> {
        let number = self.number;
        if whole {
            return Ok(Verified { number, stored });
        }
        let first_frame = match self.encoding {
            Encoding::Raw => None,
            Encoding::Zstd => first_frame_len(&stored).filter(|&len| len < stored.len()),
        };
        match first_frame {
            Some(len) if self.matches(&stored[..len]) => Ok(Verified { number, stored }),
            _ => Err(self.fault(ChunkFault::Digest)),
        }
    }

    /// Decodes the verified bytes of this chunk: exactly `self.decoded.len()` bytes, or an error.
    ///
    /// A raw chunk is handed on without a copy. CPU work: call it off the async runtime.
    ///
    /// # Errors
    ///
    /// [`Error::Chunk`] when the bytes are not one zstd frame of the length stated; whoever signed the index is to
    /// blame then, since the bytes are the ones it vouches for.
    ///
    /// # Panics
    ///
    /// When `verified` belongs to another chunk.
    pub fn decode(&self, verified: Verified) -> Result<Bytes, Error> {
        assert_eq!(verified.number, self.number, "bytes of another chunk");
        match self.encoding {
            Encoding::Raw => Ok(verified.stored),
            Encoding::Zstd => self.decode_frame(&verified.stored).map_err(|fault| self.fault(fault)),
        }
    }

    fn decode_frame(&self, stored: &[u8]) -> Result<Bytes, ChunkFault> {
        let len = first_frame_len(stored).ok_or(ChunkFault::Decode { reason: "no complete zstd frame" })?;
        let (frame, mut rest) = stored.split_at(len);
        while !rest.is_empty() {
            (_, rest) = split_skippable(rest).ok_or(ChunkFault::SeveralFrames)?;
        }
        if let Some(id) = zstd_safe::get_dict_id_from_frame(frame) {
            return Err(ChunkFault::Dictionary { id: id.get() });
        }
        let expected = self.decoded.len();
        let capacity = usize::try_from(expected)
            .map_err(|_| ChunkFault::Decode { reason: "longer than memory can hold" })?;
        let mut decoded = Vec::with_capacity(capacity);
        let result = with_decoder(|decoder| decoder.decompress(&mut decoded, frame));
        let found = result.map_err(|code| ChunkFault::Decode { reason: zstd_safe::get_error_name(code) })?;
        if found != capacity {
            return Err(ChunkFault::DecodedLength { expected, found: found as u64 });
        }
        Ok(decoded.into())
    }

    pub(super) fn matches(&self, bytes: &[u8]) -> bool {
        self.hash.digest(bytes).as_ref() == self.checksum
    }

    fn fault(&self, fault: ChunkFault) -> Error {
        Error::Chunk { blob: self.blob.clone(), chunk: self.number, stored: self.stored, fault }
    }
}

/// Length of the first frame of `bytes`, from its block headers; safe on any bytes.
fn first_frame_len(bytes: &[u8]) -> Option<usize> {
    zstd_safe::find_frame_compressed_size(bytes).ok().filter(|&len| len <= bytes.len())
}

/// Decoders at rest: each has some 100 KiB that are worth keeping between chunks.
static IDLE: Mutex<Vec<DCtx<'static>>> = Mutex::new(Vec::new());

/// Decoders kept at rest at most.
const IDLE_MAX: usize = 4;

fn with_decoder<T>(work: impl FnOnce(&mut DCtx<'static>) -> T) -> T {
    let idle = || IDLE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let taken = idle().pop();
    let mut decoder = taken.unwrap_or_default();
    let result = work(&mut decoder);
    let mut idle = idle();
    if idle.len() < IDLE_MAX {
        idle.push(decoder);
    }
    result
}

#[cfg(test)]
mod tests {
    use larder_fscache::ObjectRange;
    use larder_remote::BlobRange;
    use oci_spec::image::Digest;

    use super::super::skippable_frame;
    use super::*;
    use crate::digest::{sha256, sha256_raw};

    /// A chunk of a table of one, digest over `vouched`.
    struct Sample {
        blob: Digest,
        checksum: Vec<u8>,
        stored: Bytes,
        decoded_len: u64,
        encoding: Encoding,
        hash: ChunkHash,
    }

    impl Sample {
        fn zstd(stored: &[u8], decoded_len: u64) -> Self {
            let stored = Bytes::copy_from_slice(stored);
            let (checksum, hash) = (sha256_raw(&stored).to_vec(), ChunkHash::Sha256);
            Self { blob: sha256(b"blob"), checksum, stored, decoded_len, encoding: Encoding::Zstd, hash }
        }

        fn hashed(self, hash: ChunkHash) -> Self {
            Self { checksum: hash.digest(&self.stored).as_ref().to_vec(), hash, ..self }
        }

        fn vouched(mut self, vouched: &[u8]) -> Self {
            self.checksum = sha256_raw(vouched).to_vec();
            self
        }

        fn chunk(&self) -> Chunk<'_> {
            Chunk {
                number: 5,
                stored: BlobRange::at(100, self.stored.len() as u64).expect("no overflow"),
                decoded: ObjectRange::at(4096, self.decoded_len),
                encoding: self.encoding,
                hash: self.hash,
                checksum: &self.checksum,
                blob: &self.blob,
            }
        }

        fn read(&self) -> Result<Bytes, ChunkFault> {
            let chunk = self.chunk();
            let fault = |error| match error {
                Error::Chunk { fault, .. } => fault,
                other => panic!("{other}"),
            };
            let verified = chunk.verify(self.stored.clone()).map_err(fault)?;
            chunk.decode(verified).map_err(fault)
        }
    }

    fn frame(data: &[u8]) -> Vec<u8> {
        zstd::bulk::compress(data, 3).expect("memory is enough")
    }

    fn padding() -> Vec<u8> {
        [&skippable_frame(4).expect("4 bytes fit")[..], &[0; 4]].concat()
    }

    #[test]
    fn a_frame_decodes_to_the_length_the_index_gives() {
        let data = b"larder ".repeat(1000);
        assert_eq!(Sample::zstd(&frame(&data), 7000).read().expect("a good chunk"), data);
    }

    #[test]
    fn a_frame_without_its_content_size_decodes_too() {
        let data = b"larder ".repeat(1000);
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3).expect("memory is enough");
        std::io::Write::write_all(&mut encoder, &data).expect("memory is enough");
        let frame = encoder.finish().expect("memory is enough");
        assert_eq!(zstd_safe::get_frame_content_size(&frame).ok(), Some(None));
        assert_eq!(Sample::zstd(&frame, 7000).read().expect("a good chunk"), data);
    }

    #[test]
    fn a_raw_chunk_is_handed_on_as_it_is() {
        let mut sample = Sample::zstd(b"raw bytes", 9);
        sample.encoding = Encoding::Raw;
        let read = sample.read().expect("a good chunk");
        assert_eq!(read.as_ptr(), sample.stored.as_ptr(), "no copy");
    }

    #[test]
    fn every_hash_vouches_for_its_own_bytes_alone() {
        let hashes = [ChunkHash::Sha256, ChunkHash::Sha512, ChunkHash::Blake3];
        for hash in hashes {
            let sample = Sample::zstd(&frame(b"data"), 4).hashed(hash);
            assert_eq!(sample.read().expect("a good chunk"), &b"data"[..]);
            for other in hashes.into_iter().filter(|other| *other != hash) {
                let mistaken = Sample { hash: other, ..Sample::zstd(&sample.stored, 4).hashed(hash) };
                assert_eq!(mistaken.read().err(), Some(ChunkFault::Digest), "{hash} taken for {other}");
            }
        }
    }

    #[test]
    fn padding_after_the_frame_may_be_inside_or_outside_the_digest() {
        let frame = frame(b"data");
        let padded = [&frame[..], &padding(), &padding()].concat();
        assert_eq!(Sample::zstd(&padded, 4).read().expect("digest over all"), &b"data"[..]);
        assert_eq!(
            Sample::zstd(&padded, 4).vouched(&frame).read().expect("digest over the frame"),
            &b"data"[..]
        );
    }

    #[test]
    fn one_flipped_bit_anywhere_is_found() {
        for hash in [ChunkHash::Sha256, ChunkHash::Sha512, ChunkHash::Blake3] {
            let good = Sample::zstd(&frame(&b"larder ".repeat(50)), 350).hashed(hash);
            for at in 0..good.stored.len() * 8 {
                let mut stored = good.stored.to_vec();
                stored[at / 8] ^= 1 << (at % 8);
                assert!(good.chunk().verify(stored.into()).is_err(), "{hash}: bit {at}");
            }
        }
    }

    #[test]
    fn chunks_verified_together_fare_as_each_would_alone() {
        let raw = |text: &[u8]| Sample { encoding: Encoding::Raw, ..Sample::zstd(text, text.len() as u64) };
        let frame = frame(b"data");
        let padded = [&frame[..], &padding()].concat();
        let mut wrong = raw(&[7; 4096]);
        wrong.checksum[31] ^= 1;
        let other_kind = raw(&[9; 4096]).hashed(ChunkHash::Blake3);
        let samples = [raw(&[1; 4096]), raw(&[2; 100]), wrong, raw(&[3; 4096]), other_kind, raw(b"")];
        let samples = samples.into_iter().chain([Sample::zstd(&padded, 4).vouched(&frame)]);
        let mut samples: Vec<_> = samples.map(|sample| (sample.stored.clone(), sample)).collect();
        samples.insert(3, (Bytes::from_static(b"short"), raw(&[8; 4096])));
        // From one to a few in the last lanes, and so many that all lanes are taken.
        for (times, start) in [1, 4].into_iter().flat_map(|times| (0..samples.len()).map(move |n| (times, n)))
        {
            let some = samples[start..].iter().chain((1..times).flat_map(|_| &samples));
            let chunks = || some.clone().map(|(stored, sample)| (sample.chunk(), stored.clone()));
            let together = Chunk::verify_all(chunks().collect());
            let alone: Vec<_> = chunks().map(|(chunk, stored)| chunk.verify(stored)).collect();
            assert_eq!(format!("{together:?}"), format!("{alone:?}"));
        }
    }

    #[test]
    fn every_fault_of_a_chunk_has_its_name() {
        let data = b"larder ".repeat(1000);
        let good = frame(&data);
        let short = Sample::zstd(&good, 7000);
        let fault = short.chunk().verify(good[1..].to_vec().into()).err().map(|error| error.to_string());
        assert!(fault.is_some_and(|text| text.contains("stored bytes came instead of")));
        let fault = |stored: &[u8], len| Sample::zstd(stored, len).read().err();
        assert_eq!(fault(&good, 7001), Some(ChunkFault::DecodedLength { expected: 7001, found: 7000 }));
        assert!(matches!(fault(&good, 6999), Some(ChunkFault::Decode { .. })), "longer than declared");
        assert!(matches!(fault(b"no frame", 8), Some(ChunkFault::Decode { .. })));
        assert!(matches!(fault(&good[..good.len() - 1], 7000), Some(ChunkFault::Decode { .. })));
        assert_eq!(fault(&[&good[..], &good].concat(), 14000), Some(ChunkFault::SeveralFrames));
        assert_eq!(fault(&[&good[..], b"x"].concat(), 7000), Some(ChunkFault::SeveralFrames));
        assert_eq!(fault(&padding(), 4), Some(ChunkFault::DecodedLength { expected: 4, found: 0 }));
    }

    #[test]
    fn a_frame_with_a_dictionary_is_refused_by_its_number() {
        // Magic, then a descriptor: single segment, dictionary id of one byte; id 9; content size 4; one raw block.
        let frame = b"\x28\xb5\x2f\xfd\x21\x09\x04\x21\x00\x00data";
        assert_eq!(Sample::zstd(frame, 4).read().err(), Some(ChunkFault::Dictionary { id: 9 }));
    }
}
