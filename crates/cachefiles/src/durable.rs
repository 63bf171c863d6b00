//! [`DurableMap`]: the presence map on disk, and its format.
//!
//! Little-endian. A header, the object's name padded to 8 bytes, and for a partial object the words of
//! the map. Length and checksum must fit to the byte. The header names the inode of the data file: a map
//! that met another file than its own, after a restore or a careless `cp`, vouches for nothing.
//!
//! | offset | type | field |
//! |---|---|---|
//! | 0 | 8 bytes | magic `LarderPM` |
//! | 8 | u32 | version, 1 |
//! | 12 | u32 | CRC-32C of the whole file with this field 0 |
//! | 16 | u64 | size of the object in bytes |
//! | 24 | u64 | inode number of the data file |
//! | 32 | u32 | block size as a power of two |
//! | 36 | u32 | state: 1 partial, 2 complete |
//! | 40 | u32 | length of the name |
//! | 44 | u32 | 0 |
//! | 48 | bytes | name: volume, `/`, key; padded with zeros to 8 bytes |
//! | … | u64… | one bit a block, least significant first; partial objects only |

use larder_fscache::{BlockSize, Presence};
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::storage::{Access, Storage, read_exact};

const MAGIC: [u8; 8] = *b"LarderPM";
const VERSION: u32 = 1;
const PARTIAL: u32 = 1;
const COMPLETE: u32 = 2;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: U32,
    crc: U32,
    size: U64,
    ino: U64,
    block_bits: U32,
    state: U32,
    name_len: U32,
    reserved: U32,
}

/// Length of the header in bytes, and where the checksum stands in it.
const HEADER_BYTES: usize = size_of::<Header>();
const CRC_AT: usize = 12;

/// What a durable map must belong to.
#[derive(Clone, Debug)]
pub(crate) struct Owner {
    /// Volume and key.
    pub name: String,
    pub size: u64,
    pub block: BlockSize,
    /// Inode number of the data file.
    pub ino: u64,
}

/// What is known to be on the disk.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum DurableMap {
    /// The blocks whose bits are set; as many words as the size needs.
    Partial(Vec<u64>),
    /// Everything.
    Complete,
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

    fn name_bytes(&self) -> usize {
        self.name.len().next_multiple_of(8)
    }

    /// The greatest length in bytes that a map of this object has.
    pub fn len_max(&self) -> u64 {
        (HEADER_BYTES + self.name_bytes()) as u64 + self.words() * 8
    }
}

impl DurableMap {
    /// The map of an object of which nothing is known.
    pub fn holes(owner: &Owner) -> Self {
        Self::Partial((0..owner.words()).map(|_| 0).collect())
    }

    /// Returns the map as the bytes of its file.
    pub fn encode(&self, owner: &Owner) -> Vec<u8> {
        let (state, words): (u32, &[u64]) = match self {
            Self::Partial(words) => (PARTIAL, words),
            Self::Complete => (COMPLETE, &[]),
        };
        let header = Header {
            magic: MAGIC,
            version: U32::new(VERSION),
            crc: U32::new(0),
            size: U64::new(owner.size),
            ino: U64::new(owner.ino),
            block_bits: U32::new(u32::from(owner.block.bits())),
            state: U32::new(state),
            name_len: U32::new(u32::try_from(owner.name.len()).expect("two keys of at most 200 bytes")),
            reserved: U32::new(0),
        };
        let mut bytes = Vec::with_capacity(HEADER_BYTES + owner.name_bytes() + words.len() * 8);
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(owner.name.as_bytes());
        bytes.resize(HEADER_BYTES + owner.name_bytes(), 0);
        for word in words {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        let crc = crc32c::crc32c(&bytes).to_le_bytes();
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc);
        bytes
    }

    /// Reads the bytes of a map file, which must be `owner`'s.
    pub fn parse(bytes: &[u8], owner: &Owner) -> Result<Self, Unusable> {
        let wrong_len = || Unusable::Length(bytes.len() as u64);
        let (header, rest) = Header::read_from_prefix(bytes).map_err(|_| wrong_len())?;
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
        check_owner(&header, rest, owner)?;
        let map = &rest[owner.name_bytes()..];
        match header.state.get() {
            COMPLETE if map.is_empty() => Ok(Self::Complete),
            PARTIAL if map.len() as u64 == owner.words() * 8 => words(map, owner).map(Self::Partial),
            COMPLETE | PARTIAL => Err(wrong_len()),
            _ => Err(Unusable::Differs("state")),
        }
    }
}

/// Whether the map at `path` says that its object is complete. A glance for listings: nothing is checked.
pub(crate) fn claims_complete(storage: &dyn Storage, path: &str) -> bool {
    let mut bytes = [0; HEADER_BYTES];
    let read = storage.open(path, Access::Read).and_then(|file| read_exact(&*file, &mut bytes, 0));
    let header: Header = zerocopy::transmute!(bytes);
    read.is_ok() && header.magic == MAGIC && header.state.get() == COMPLETE
}

fn check_owner(header: &Header, rest: &[u8], owner: &Owner) -> Result<(), Unusable> {
    let name = rest.get(..owner.name_bytes()).unwrap_or_default();
    let fields = [
        (header.size.get() == owner.size, "size"),
        (header.block_bits.get() == u32::from(owner.block.bits()), "block size"),
        (
            header.name_len.get() as usize == owner.name.len() && name.starts_with(owner.name.as_bytes()),
            "name",
        ),
        (header.ino.get() == owner.ino, "data file"),
    ];
    match fields.into_iter().find(|(same, _)| !same) {
        Some((_, field)) => Err(Unusable::Differs(field)),
        None => Ok(()),
    }
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
        Owner { name: "v/cookie".to_owned(), size: 70 * 4096 - 1, block: BlockSize::FOUR_KIB, ino: 42 }
    }

    #[test]
    fn a_map_reads_back_as_it_was_written() {
        for map in [DurableMap::Complete, DurableMap::Partial(vec![u64::MAX, 0b10_1111])] {
            let bytes = map.encode(&owner());
            assert!(bytes.len() as u64 <= owner().len_max());
            assert_eq!(DurableMap::parse(&bytes, &owner()), Ok(map));
        }
    }

    #[test]
    fn the_format_on_disk_does_not_change() {
        let bytes = DurableMap::Partial(vec![1, 2]).encode(&owner());
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN);
    }

    /// Header, name, two words; checked by hand against the table above.
    const GOLDEN: &str = "4c6172646572504d01000000708040aaff5f0400000000002a000000000000000c00000001000000\
        0800000000000000762f636f6f6b696501000000000000000200000000000000";

    #[test]
    fn a_map_of_anything_else_vouches_for_nothing() {
        let bytes = DurableMap::Partial(vec![1, 2]).encode(&owner());
        let others = [
            ("size", Owner { size: 70 * 4096 - 2, ..owner() }),
            ("block size", Owner { block: BlockSize::from_bits(13).expect("in range"), ..owner() }),
            ("name", Owner { name: "v/cooki".to_owned(), ..owner() }),
            ("name", Owner { name: "v/cookif".to_owned(), ..owner() }),
            ("name", Owner { name: "v/cookie/and/a/much/longer/name".to_owned(), ..owner() }),
            ("data file", Owner { ino: 43, ..owner() }),
        ];
        for (field, other) in others {
            assert_eq!(DurableMap::parse(&bytes, &other), Err(Unusable::Differs(field)));
        }
    }

    #[test]
    fn bits_past_the_end_of_the_object_are_refused() {
        let bytes = DurableMap::Partial(vec![0, 1 << 6]).encode(&owner());
        assert_eq!(DurableMap::parse(&bytes, &owner()), Err(Unusable::StrayBits));
    }

    proptest! {
        #[test]
        fn a_map_with_a_flipped_bit_or_another_length_is_refused(
            map in proptest::collection::vec(any::<u64>(), 2), bit in 0usize..576, cut in 1usize..72, complete: bool,
        ) {
            let map = DurableMap::Partial(vec![map[0], map[1] & 0x3f]);
            let map = if complete { DurableMap::Complete } else { map };
            let good = map.encode(&owner());
            let mut flipped = good.clone();
            let bit = bit % (good.len() * 8);
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(DurableMap::parse(&flipped, &owner()).is_err());
            prop_assert!(DurableMap::parse(&good[..good.len().saturating_sub(cut)], &owner()).is_err());
            let mut longer = good.clone();
            longer.extend(std::iter::repeat_n(0, cut));
            prop_assert!(DurableMap::parse(&longer, &owner()).is_err());
        }

        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = DurableMap::parse(&bytes, &owner());
            let mut forged = DurableMap::Complete.encode(&owner());
            forged.extend_from_slice(&bytes);
            forged[CRC_AT..CRC_AT + 4].fill(0);
            let crc = crc32c::crc32c(&forged).to_le_bytes();
            forged[CRC_AT..CRC_AT + 4].copy_from_slice(&crc);
            prop_assert_eq!(DurableMap::parse(&forged, &owner()).is_ok(), bytes.is_empty());
        }
    }
}
