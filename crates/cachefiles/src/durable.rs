//! [`DurableMap`]: the presence map of a partial object on disk, and its format.
//!
//! Little-endian. A header and the words of the map. Length and checksum must fit to the byte. The header
//! names the instance of the data file: a map that meets another file than its own, whether after a crash, a
//! restore or a careless `cp`, vouches for nothing. So neither a new file nor the removal of an old one
//! needs any order on the disk. A complete object has no map: its attribute says so.
//!
//! | offset | type | field |
//! |---|---|---|
//! | 0 | 8 bytes | magic `LarderPM` |
//! | 8 | u32 | version, 2 |
//! | 12 | u32 | CRC-32C of the whole file with this field 0 |
//! | 16 | u64 | size of the object in bytes |
//! | 24 | 16 bytes | instance id of the data file |
//! | 40 | u32 | block size as a power of two |
//! | 44 | u32 | 0 |
//! | 48 | u64… | one bit a block, least significant first |

use larder_fscache::{BlockSize, Presence};
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::coherency::InstanceId;

const MAGIC: [u8; 8] = *b"LarderPM";
const VERSION: u32 = 2;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: U32,
    crc: U32,
    size: U64,
    instance: [u8; 16],
    block_bits: U32,
    reserved: U32,
}

/// Length of the header in bytes, and where the checksum stands in it.
const HEADER_BYTES: usize = size_of::<Header>();
const CRC_AT: usize = 12;

/// What a durable map must belong to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner {
    pub instance: InstanceId,
    pub size: u64,
    pub block: BlockSize,
}

/// Why a durable map vouches for nothing.
#[derive(Debug, thiserror::Error, PartialEq)]
pub(crate) enum Unusable {
    #[error("its length of {0} bytes is wrong")]
    Length(u64),
    #[error("its checksum is wrong")]
    Checksum,
    #[error("its {0} is another")]
    Differs(&'static str),
    #[error("it has bits past the end of the object")]
    StrayBits,
}

impl Owner {
    fn words(&self) -> u64 {
        Presence::words_for(self.size, self.block)
    }

    /// The length in bytes that a map of this object has.
    pub fn map_len(&self) -> u64 {
        HEADER_BYTES as u64 + self.words() * 8
    }

    /// The words of an object of which nothing is known.
    pub fn holes(&self) -> Vec<u64> {
        (0..self.words()).map(|_| 0).collect()
    }

    /// The words of an object of which everything is there.
    pub fn all(&self) -> Vec<u64> {
        let blocks = self.block.count(self.size);
        (0..self.words())
            .map(|n| if blocks - n * 64 >= 64 { u64::MAX } else { (1 << (blocks - n * 64)) - 1 })
            .collect()
    }
}

/// Returns the bytes of the map file that names the blocks whose bits are set in `words`.
pub(crate) fn encode(words: &[u64], owner: &Owner) -> Vec<u8> {
    let header = Header {
        magic: MAGIC,
        version: U32::new(VERSION),
        crc: U32::new(0),
        size: U64::new(owner.size),
        instance: owner.instance.0,
        block_bits: U32::new(u32::from(owner.block.bits())),
        reserved: U32::new(0),
    };
    let mut bytes = Vec::with_capacity(HEADER_BYTES + words.len() * 8);
    bytes.extend_from_slice(header.as_bytes());
    for word in words {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    let crc = crc32c::crc32c(&bytes).to_le_bytes();
    bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc);
    bytes
}

/// Reads the bytes of a map file, which must be `owner`'s, as the words of the map.
pub(crate) fn parse(bytes: &[u8], owner: &Owner) -> Result<Vec<u64>, Unusable> {
    let wrong_len = || Unusable::Length(bytes.len() as u64);
    let (header, map) = Header::read_from_prefix(bytes).map_err(|_| wrong_len())?;
    if header.magic != MAGIC {
        return Err(Unusable::Differs("magic"));
    }
    if header.version.get() != VERSION {
        return Err(Unusable::Differs("version"));
    }
    let with_zero = crc32c::crc32c(&bytes[..CRC_AT]);
    let with_zero = crc32c::crc32c_append(with_zero, &[0; 4]);
    if crc32c::crc32c_append(with_zero, &bytes[CRC_AT + 4..]) != header.crc.get() {
        return Err(Unusable::Checksum);
    }
    let fields = [
        (header.size.get() == owner.size, "size"),
        (header.block_bits.get() == u32::from(owner.block.bits()), "block size"),
        (header.instance == owner.instance.0, "data file"),
    ];
    if let Some((_, field)) = fields.into_iter().find(|(same, _)| !same) {
        return Err(Unusable::Differs(field));
    }
    if bytes.len() as u64 != owner.map_len() {
        return Err(wrong_len());
    }
    words(map, owner)
}

fn words(map: &[u8], owner: &Owner) -> Result<Vec<u64>, Unusable> {
    let (chunks, _) = map.as_chunks::<8>();
    let words: Vec<u64> = chunks.iter().map(|chunk| u64::from_le_bytes(*chunk)).collect();
    let used = owner.block.count(owner.size) % 64;
    let stray = words.last().is_some_and(|last| used != 0 && last >> used != 0);
    if stray { Err(Unusable::StrayBits) } else { Ok(words) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn owner() -> Owner {
        Owner { instance: InstanceId(*b"0123456789abcdef"), size: 70 * 4096 - 1, block: BlockSize::FOUR_KIB }
    }

    #[test]
    fn a_map_reads_back_as_it_was_written() {
        for words in [vec![u64::MAX, 0b10_1111], owner().holes(), owner().all()] {
            let bytes = encode(&words, &owner());
            assert_eq!(bytes.len() as u64, owner().map_len());
            assert_eq!(parse(&bytes, &owner()), Ok(words));
        }
    }

    #[test]
    fn all_of_an_object_is_every_block_and_no_other() {
        assert_eq!(owner().all(), [u64::MAX, 0b11_1111]);
        assert_eq!(Owner { size: 64 * 4096, ..owner() }.all(), [u64::MAX]);
        assert_eq!(Owner { size: 0, ..owner() }.all(), []);
    }

    #[test]
    fn the_format_on_disk_does_not_change() {
        let bytes = encode(&[1, 2], &owner());
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let (head, tail) = hex.split_at(24);
        // Header and two words; checked by hand against the table above.
        assert_eq!(head, "4c6172646572504d02000000");
        assert_eq!(
            &tail[8..],
            "ff5f040000000000303132333435363738396162636465660c00000000000000\
             01000000000000000200000000000000"
        );
    }

    #[test]
    fn a_map_of_anything_else_vouches_for_nothing() {
        let bytes = encode(&[1, 2], &owner());
        let others = [
            ("size", Owner { size: 70 * 4096 - 2, ..owner() }),
            ("block size", Owner { block: BlockSize::from_bits(13).expect("in range"), ..owner() }),
            ("data file", Owner { instance: InstanceId([0; 16]), ..owner() }),
        ];
        for (field, other) in others {
            assert_eq!(parse(&bytes, &other), Err(Unusable::Differs(field)));
        }
    }

    #[test]
    fn bits_past_the_end_of_the_object_are_refused() {
        assert_eq!(parse(&encode(&[0, 1 << 6], &owner()), &owner()), Err(Unusable::StrayBits));
    }

    proptest! {
        #[test]
        fn a_map_with_a_flipped_bit_or_another_length_is_refused(
            map in proptest::collection::vec(any::<u64>(), 2), bit in 0usize..512, cut in 1usize..72,
        ) {
            let good = encode(&[map[0], map[1] & 0x3f], &owner());
            let mut flipped = good.clone();
            let bit = bit % (good.len() * 8);
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(parse(&flipped, &owner()).is_err());
            prop_assert!(parse(&good[..good.len().saturating_sub(cut)], &owner()).is_err());
            let mut longer = good;
            longer.extend(std::iter::repeat_n(0, cut));
            prop_assert!(parse(&longer, &owner()).is_err());
        }

        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes, &owner());
            let mut forged = encode(&[], &owner());
            forged.extend_from_slice(&bytes);
            forged[CRC_AT..CRC_AT + 4].fill(0);
            let crc = crc32c::crc32c(&forged).to_le_bytes();
            forged[CRC_AT..CRC_AT + 4].copy_from_slice(&crc);
            let fits = bytes.len() == 16 && bytes[8] < 0x40 && bytes[9..].iter().all(|byte| *byte == 0);
            prop_assert_eq!(parse(&forged, &owner()).is_ok(), fits);
        }
    }
}
