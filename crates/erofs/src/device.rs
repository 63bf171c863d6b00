//! [`DeviceSlot`]: one entry of the device table, 128 bytes on disk.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{BlockSize, Incompat};

/// Size of a slot on disk; the table starts at a multiple of it.
pub(crate) const SLOT_BYTES: usize = 128;

/// A slot as it stands on disk.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawDeviceSlot {
    tag: [u8; 64],
    blocks_lo: U32,
    uniaddr_lo: U32,
    blocks_hi: U16,
    uniaddr_hi: U16,
    reserved: [u8; 52],
}

/// The free text of a slot; Larder writes the digest of the blob there, in hex.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct DeviceTag([u8; 64]);

impl DeviceTag {
    /// No text.
    pub const EMPTY: Self = Self([0; 64]);

    /// Takes up to 64 bytes of text; `None` when there are more.
    pub fn new(text: &[u8]) -> Option<Self> {
        let mut tag = [0; 64];
        tag.get_mut(..text.len())?.copy_from_slice(text);
        Some(Self(tag))
    }

    /// The text up to the first NUL.
    pub fn text(&self) -> &[u8] {
        let end = self.0.iter().position(|&byte| byte == 0).unwrap_or(self.0.len());
        &self.0[..end]
    }
}

/// An extra device: what it is called and where it lies in the unified address space.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DeviceSlot {
    /// Free text, e.g. the digest of the device's bytes in hex.
    pub tag: DeviceTag,
    /// Length in blocks; 0 where the writer did not say.
    pub blocks: u64,
    /// First block in the unified address space; 0 when it has no place there.
    pub uniaddr: u64,
}

impl DeviceSlot {
    pub(crate) fn decode(raw: &RawDeviceSlot, incompat: Incompat) -> Self {
        let high =
            |half: U16| if incompat.contains(Incompat::BITS_48) { u64::from(half.get()) << 32 } else { 0 };
        Self {
            tag: DeviceTag(raw.tag),
            blocks: u64::from(raw.blocks_lo.get()) | high(raw.blocks_hi),
            uniaddr: u64::from(raw.uniaddr_lo.get()) | high(raw.uniaddr_hi),
        }
    }

    /// Encodes a slot, with 48-bit halves if `wide`; `None` when a number needs more.
    pub(crate) fn encode(&self, wide: bool) -> Option<RawDeviceSlot> {
        let halves = |number: u64| {
            let high = u16::try_from(number >> 32).ok().filter(|&high| wide || high == 0)?;
            let [a, b, c, d, ..] = number.to_le_bytes();
            Some((U32::from([a, b, c, d]), high.into()))
        };
        let (blocks_lo, blocks_hi) = halves(self.blocks)?;
        let (uniaddr_lo, uniaddr_hi) = halves(self.uniaddr)?;
        Some(RawDeviceSlot {
            tag: self.tag.0,
            blocks_lo,
            uniaddr_lo,
            blocks_hi,
            uniaddr_hi,
            reserved: [0; 52],
        })
    }

    /// Length in bytes, or `None` when the writer did not say or it passes 2^64.
    pub fn bytes(&self, block: BlockSize) -> Option<u64> {
        if self.blocks == 0 { None } else { self.blocks.checked_mul(block.bytes()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_holds_exactly_sixty_four_bytes() {
        assert_eq!(size_of::<RawDeviceSlot>(), SLOT_BYTES);
        assert_eq!(DeviceTag::new(&[b'a'; 64]).expect("fits").text(), [b'a'; 64]);
        assert_eq!(DeviceTag::new(&[b'a'; 65]), None);
        assert_eq!(DeviceTag::new(b"abc").expect("fits").text(), b"abc");
    }

    #[test]
    fn high_halves_count_only_with_the_48_bit_feature() {
        let mut raw = DeviceSlot { tag: DeviceTag::EMPTY, blocks: 7, uniaddr: 9 }
            .encode(false)
            .expect("32 bits are enough");
        raw.blocks_hi = 1.into();
        assert_eq!(DeviceSlot::decode(&raw, Incompat::DEVICE_TABLE).blocks, 7);
        let wide = DeviceSlot::decode(&raw, Incompat::BITS_48);
        assert_eq!(wide.blocks, 7 + (1 << 32));
        assert!(wide.encode(false).is_none());
        let again = DeviceSlot::decode(&wide.encode(true).expect("48 bits"), Incompat::BITS_48);
        assert_eq!(again, wide);
    }
}
