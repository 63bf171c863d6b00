//! Extent records (Linux 6.15, with the 48-bit feature): addresses and lengths in bytes.

use super::MapFault;
use crate::Codec;

/// Bits 0 to 20 of the first word: encoded length.
const LEN_MASK: u32 = (1 << 21) - 1;
/// Bits 28 to 31: 0 is plain, n is codec n - 1.
const FORMAT_SHIFT: u32 = 28;

/// Bit 27: the pcluster holds more than the extent.
const PARTIAL: u32 = 1 << 27;

/// Which fields the records of a file have, by their size.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum RecordForm {
    /// 4 bytes: a length; pclusters follow each other, extents all have one size.
    Length,
    /// 8 bytes: length and low half of the address; extents all have one size.
    Place,
    /// 16 bytes: length, address, low half of the position in the file.
    Position,
    /// 32 bytes: as before, with the high half.
    WidePosition,
}

impl RecordForm {
    /// Takes the log2 of the record's size, 2 to 5.
    pub fn from_bits(bits: u8) -> Self {
        match bits {
            2 => Self::Length,
            3 => Self::Place,
            4 => Self::Position,
            _ => Self::WidePosition,
        }
    }

    /// Size of a record in bytes, which is also the alignment of the table.
    pub fn bytes(self) -> u64 {
        1 << self.bits()
    }

    /// Log2 of the size of a record: 2 to 5.
    pub fn bits(self) -> u8 {
        match self {
            Self::Length => 2,
            Self::Place => 3,
            Self::Position => 4,
            Self::WidePosition => 5,
        }
    }

    /// Whether all extents but the last have the size of an lcluster.
    pub fn is_uniform(self) -> bool {
        matches!(self, Self::Length | Self::Place)
    }
}

/// One extent record: `struct z_erofs_extent`, fs/erofs/erofs_fs.h (v7.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Record {
    word: u32,
    /// Low half of the address; also high half of a fragment's offset.
    place_low: u32,
    /// Byte address of the pcluster.
    pub place: u64,
    /// Where the extent begins in the file.
    pub position: u64,
}

impl Record {
    /// Decodes a record; fields that its form lacks are 0. `None` when `bytes` is too short.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let word = |index: usize| {
            let bytes = bytes.get(4 * index..4 * index + 4)?;
            Some(u32::from_le_bytes(bytes.try_into().ok()?))
        };
        let wide = |low: usize, high: usize| {
            u64::from(word(high).unwrap_or(0)) << 32 | u64::from(word(low).unwrap_or(0))
        };
        Some(Self {
            word: word(0)?,
            place_low: word(1).unwrap_or(0),
            place: wide(1, 2),
            position: wide(3, 4),
        })
    }

    /// A record of `len` encoded bytes, at byte address `place`, of the extent that begins at `position`. `codec` is
    /// `None` for plain bytes; a `len` of 0 is a hole. `None` when an encoded length does not fit.
    pub fn new(len: u32, codec: Option<Codec>, partial: bool, place: u64, position: u64) -> Option<Self> {
        let format = codec.map_or(0, |codec| u32::from(codec.number()) + 1);
        let word = Some(len).filter(|len| len & !LEN_MASK == 0)?;
        let word = word | format << FORMAT_SHIFT | if partial { PARTIAL } else { 0 };
        Some(Self { word, place_low: low_half(place), place, position })
    }

    /// The last record of a file whose tail, from `position` on, is the fragment at `offset`.
    pub fn fragment(offset: u64, position: u64) -> Self {
        Self { word: low_half(offset), place_low: low_half(offset >> 32), place: offset >> 32, position }
    }

    /// Appends the fields that a record of this form has; those of uniform extents are not written.
    pub fn encode(&self, form: RecordForm, out: &mut Vec<u8>) {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&self.word.to_le_bytes());
        bytes[4..12].copy_from_slice(&self.place.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.position.to_le_bytes());
        out.extend_from_slice(&bytes[..if form == RecordForm::Position { 16 } else { 32 }]);
    }

    /// Encoded length in bytes; 0 is a hole.
    pub fn len(&self) -> u64 {
        u64::from(self.word & LEN_MASK)
    }

    /// The codec, or `None` for plain bytes.
    pub fn codec(&self) -> Result<Option<Codec>, MapFault> {
        let number = u8::try_from(self.word >> FORMAT_SHIFT).unwrap_or(u8::MAX);
        match number.checked_sub(1) {
            None => Ok(None),
            Some(number) => Codec::from_number(number).map(Some).ok_or(MapFault::UnknownCodec { number }),
        }
    }

    /// What the last record means in a file whose tail is a fragment: its place in the packed inode.
    pub fn fragment_offset(&self) -> u64 {
        u64::from(self.place_low) << 32 | u64::from(self.word)
    }
}

fn low_half(number: u64) -> u32 {
    let [a, b, c, d, ..] = number.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_the_disk() {
        let (place, position) = (0x5_1234_5678, 0x3_0000_1000);
        let record = Record::new(0x1f_ffff, Some(Codec::Zstd), true, place, position).expect("fits");
        for (form, position) in [(RecordForm::Position, 0x1000), (RecordForm::WidePosition, position)] {
            let mut bytes = Vec::new();
            record.encode(form, &mut bytes);
            assert_eq!(bytes.len() as u64, form.bytes());
            let read = Record::decode(&bytes).expect("long enough");
            assert_eq!((read.len(), read.codec()), (0x1f_ffff, Ok(Some(Codec::Zstd))));
            assert_eq!((read.place, read.position), (place, position));
            let mut bytes = Vec::new();
            Record::fragment(0x7_8765_4321, 0).encode(form, &mut bytes);
            assert_eq!(Record::decode(&bytes).expect("long enough").fragment_offset(), 0x7_8765_4321);
        }
        assert_eq!(Record::new(1 << 21, None, false, 0, 0), None);
    }

    #[test]
    fn a_record_has_the_fields_of_its_size() {
        let mut bytes = Vec::new();
        for word in [0x4800_1234_u32, 1, 2, 3, 4, 0, 0, 0] {
            bytes.extend(word.to_le_bytes());
        }
        let decode = |len: usize| Record::decode(&bytes[..len]).expect("long enough");
        let all = decode(32);
        assert_eq!((all.len(), all.codec()), (0x1234, Ok(Some(Codec::Zstd))));
        assert_eq!((all.place, all.position), (2 << 32 | 1, 4 << 32 | 3));
        assert_eq!((decode(16).place, decode(16).position), (2 << 32 | 1, 3));
        assert_eq!((decode(8).place, decode(8).position), (1, 0));
        assert_eq!((decode(4).place, decode(4).fragment_offset()), (0, 0x4800_1234));
        assert_eq!(all.fragment_offset(), 1 << 32 | 0x4800_1234);
        assert_eq!(Record::decode(&[0; 3]), None);
        let unknown = Record::decode(&0x6000_0001_u32.to_le_bytes()).expect("long enough");
        assert_eq!(unknown.codec(), Err(MapFault::UnknownCodec { number: 5 }));
    }
}
