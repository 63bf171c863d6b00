//! [`Coherency`]: what a data file says about itself, in the attribute `user.larder.object`.
//!
//! Little-endian. Nothing about a file is believed before this has been read and fits: a file without it, with
//! a damaged one, or with that of another object is foreign, and is replaced.
//!
//! | offset | type | field |
//! |---|---|---|
//! | 0 | u8 | version, 1 |
//! | 1 | u8 | state: 1 partial, 2 complete, 3 begun |
//! | 2 | u8 | block size as a power of two |
//! | 3 | u8 | length of the auxiliary data |
//! | 4 | u32 | CRC-32C of the whole attribute with this field 0 |
//! | 8 | u64 | size of the object in bytes |
//! | 16 | 16 bytes | instance id: a random number, another for every file that is ever made |
//! | 32 | u64 | FNV-1a of volume, `/`, key |
//! | 40 | bytes | auxiliary data: what the client says the content is (an ETag, a time), at most 128 bytes |
//!
//! The name is hashed, and the whole kept at 40 bytes, because ext4 has 56 for it in an inode of 256 bytes. A
//! longer one takes a block of its own, 4 KiB and one more read from the disk for every object. The hash is no
//! protection from anybody: it notices a file that was put under another name by hand.
//!
//! *Complete* is set only after all data has been synced, so whoever sees it may believe it, also after a power
//! loss that took the rest of the attribute's history. *Begun* becomes *partial*, durably, before the first durable map
//! is written, so that whoever opens a file that was begun need not look for one. There is no fsync when a file is made: until the first
//! commit nothing vouches for any byte of it, and a file whose attribute was lost is replaced.

use rustix::rand::{GetRandomFlags, getrandom};
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout::Place;
use crate::object::BLOCK;
use crate::storage::{AttrName, Kind, Stat};

/// The attribute's name.
pub(crate) const OBJECT_ATTR: AttrName = "user.larder.object";
/// Most bytes of auxiliary data.
pub(crate) const AUX_BYTES_MAX: usize = 128;

const VERSION: u8 = 1;
const CRC_AT: usize = 4;

/// A number that no two files ever share, in this cache or another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct InstanceId(pub [u8; 16]);

impl InstanceId {
    /// Draws a new one.
    pub fn random() -> std::io::Result<Self> {
        let mut id = [0; 16];
        let len = getrandom(&mut id, GetRandomFlags::empty())?;
        // Up to 256 bytes come whole (getrandom(2)).
        assert_eq!(len, id.len(), "the kernel gives 16 bytes at once");
        Ok(Self(id))
    }
}

/// How much of an object is on the disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum State {
    /// Nothing is known to be, and no durable map is this file's.
    Begun,
    /// The durable map says what is.
    Partial,
    /// All of it, durable.
    Complete,
}

/// What a data file says about itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Coherency {
    pub state: State,
    pub block_bits: u8,
    /// Bytes of the object.
    pub size: u64,
    pub instance: InstanceId,
    /// Hash of volume and key.
    pub name_hash: u64,
    pub aux: Vec<u8>,
}

/// Why an attribute is not believed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Unusable {
    #[error("it has none")]
    Missing,
    #[error("its length is wrong")]
    Length,
    #[error("its version is unknown")]
    Version,
    #[error("its checksum is wrong")]
    Checksum,
    #[error("its state is unknown")]
    State,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    version: u8,
    state: u8,
    block_bits: u8,
    aux_len: u8,
    crc: U32,
    size: U64,
    instance: [u8; 16],
    name_hash: U64,
}

const HEADER_BYTES: usize = size_of::<Header>();

impl Coherency {
    /// The field that says that a file is not the object at `place`, if one does.
    pub fn differs(&self, place: &Place, stat: &Stat) -> Option<&'static str> {
        let fields = [
            (stat.kind == Kind::File, "type"),
            (self.name_hash == place.name_hash(), "name"),
            (self.block_bits == BLOCK.bits(), "block"),
            (self.size == stat.len, "len"),
        ];
        fields.into_iter().find_map(|(same, field)| (!same).then_some(field))
    }

    /// Returns the attribute's value.
    ///
    /// # Panics
    ///
    /// When the auxiliary data is longer than its type allows.
    pub fn encode(&self) -> Vec<u8> {
        assert!(self.aux.len() <= AUX_BYTES_MAX, "auxiliary data is bounded where it comes in");
        let header = Header {
            version: VERSION,
            state: match self.state {
                State::Partial => 1,
                State::Complete => 2,
                State::Begun => 3,
            },
            block_bits: self.block_bits,
            aux_len: u8::try_from(self.aux.len()).expect("at most 128"),
            crc: U32::new(0),
            size: U64::new(self.size),
            instance: self.instance.0,
            name_hash: U64::new(self.name_hash),
        };
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(&self.aux);
        let crc = crc32c::crc32c(&bytes).to_le_bytes();
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc);
        bytes
    }

    /// Reads an attribute's value.
    pub fn parse(bytes: Option<&[u8]>) -> Result<Self, Unusable> {
        let bytes = bytes.ok_or(Unusable::Missing)?;
        let (header, aux) = Header::read_from_prefix(bytes).map_err(|_| Unusable::Length)?;
        if header.version != VERSION {
            return Err(Unusable::Version);
        }
        if aux.len() != usize::from(header.aux_len) || aux.len() > AUX_BYTES_MAX {
            return Err(Unusable::Length);
        }
        if crc_of(bytes) != header.crc.get() {
            return Err(Unusable::Checksum);
        }
        let state = match header.state {
            1 => State::Partial,
            2 => State::Complete,
            3 => State::Begun,
            _ => return Err(Unusable::State),
        };
        Ok(Self {
            state,
            block_bits: header.block_bits,
            size: header.size.get(),
            instance: InstanceId(header.instance),
            name_hash: header.name_hash.get(),
            aux: aux.to_vec(),
        })
    }
}

/// The checksum of `bytes` with the field of the checksum taken as 0.
fn crc_of(bytes: &[u8]) -> u32 {
    let head = crc32c::crc32c(&bytes[..CRC_AT]);
    crc32c::crc32c_append(crc32c::crc32c_append(head, &[0; 4]), &bytes[CRC_AT + 4..])
}

const _: () = assert!(HEADER_BYTES == 40);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(state: State, aux: &[u8]) -> Coherency {
        Coherency {
            state,
            block_bits: 12,
            size: 70 * 4096 - 1,
            instance: InstanceId(*b"0123456789abcdef"),
            name_hash: 0x0102_0304_0506_0708,
            aux: aux.to_vec(),
        }
    }

    #[test]
    fn an_attribute_reads_back_as_it_was_written() {
        for state in [State::Begun, State::Partial, State::Complete] {
            for aux in [&b""[..], b"etag", &[7; AUX_BYTES_MAX]] {
                let written = sample(state, aux);
                assert_eq!(Coherency::parse(Some(&written.encode())), Ok(written));
            }
        }
    }

    #[test]
    fn the_format_on_disk_does_not_change() {
        let hex: String =
            sample(State::Complete, b"ab").encode().iter().map(|b| format!("{b:02x}")).collect();
        // Checked by hand against the table above.
        let (head, tail) = hex.split_at(8);
        assert_eq!(head, "01020c02");
        assert_eq!(
            &tail[8..],
            "ff5f040000000000303132333435363738396162636465660807060504030201\
             6162"
        );
    }

    #[test]
    fn without_auxiliary_data_it_fits_into_an_inode() {
        assert!(sample(State::Partial, &[0; 16]).encode().len() <= 56);
    }

    #[test]
    fn no_two_instances_are_alike() {
        assert_ne!(InstanceId::random().expect("a kernel"), InstanceId::random().expect("a kernel"));
    }

    proptest! {
        #[test]
        fn a_flipped_bit_or_another_length_is_noticed(
            aux in proptest::collection::vec(any::<u8>(), 0..=AUX_BYTES_MAX), bit: usize, cut in 1usize..60,
        ) {
            let good = sample(State::Partial, &aux).encode();
            let mut flipped = good.clone();
            let bit = bit % (good.len() * 8);
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Coherency::parse(Some(&flipped)).is_err());
            prop_assert!(Coherency::parse(Some(&good[..good.len().saturating_sub(cut)])).is_err());
            let mut longer = good;
            longer.extend(std::iter::repeat_n(0, cut));
            prop_assert!(Coherency::parse(Some(&longer)).is_err());
        }

        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Coherency::parse(Some(&bytes));
            let mut forged = bytes;
            if forged.len() >= HEADER_BYTES {
                let crc = crc_of(&forged).to_le_bytes();
                forged[CRC_AT..CRC_AT + 4].copy_from_slice(&crc);
                if let Ok(parsed) = Coherency::parse(Some(&forged)) {
                    prop_assert_eq!(parsed.encode(), forged);
                }
            }
        }
    }
}
