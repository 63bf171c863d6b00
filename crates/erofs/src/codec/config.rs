//! Codec configuration records, which follow the superblock.

use super::Codec;
use crate::source::read_primary;
use crate::{BlockSize, Error, MetaSource};

/// Largest encoded pcluster: `Z_EROFS_PCLUSTER_MAX_SIZE`, fs/erofs/internal.h (v7.3).
pub(crate) const PCLUSTER_BYTES_MAX: u64 = 1 << 20;
/// What an LZMA dictionary may measure.
const LZMA_DICT_BYTES: std::ops::RangeInclusive<u32> = 4096..=8 << 20;
/// Largest window: 2^(10 + this) bytes.
const ZSTD_WINDOW_LOG_MAX: u8 = 10;
/// Most bytes of a record that mean anything to this crate.
const KNOWN_BYTES_MAX: usize = 14;

/// Which codecs an image uses, and how.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct CodecConfigs {
    available: u16,
    pub lzma_dict_bytes: u32,
    /// How far back LZ4 data may refer, 0 for 64 KiB, and blocks of an LZ4 pcluster, 0 for one.
    lz4: (u16, u16),
    zstd_window_log: u8,
}

impl CodecConfigs {
    /// Images without records have LZ4 only, in pclusters of one block.
    pub(crate) const LEGACY: Self =
        Self { available: Codec::Lz4.bit(), lzma_dict_bytes: 0, lz4: (0, 0), zstd_window_log: 0 };

    /// Whether the superblock lists `codec`.
    pub(crate) fn has(&self, codec: Codec) -> bool {
        self.available & codec.bit() != 0
    }

    /// Reads one record for each bit of `available`, in ascending order, the first at byte `at`.
    ///
    /// Source of truth: `z_erofs_parse_cfgs()`, fs/erofs/decompressor.c (v7.3). A codec that this build lacks
    /// is no error here: the image can still be listed.
    pub(crate) fn read(
        source: &dyn MetaSource,
        at: u64,
        available: u16,
        block: BlockSize,
    ) -> Result<Self, Error> {
        let known = Codec::ALL.iter().fold(0, |bits, codec| bits | codec.bit());
        if available & !known != 0 {
            return Err(Error::UnknownCodecs { bits: available & !known });
        }
        let mut configs = Self { available, ..Self::LEGACY };
        let mut at = at;
        for codec in Codec::ALL.into_iter().filter(|codec| available & codec.bit() != 0) {
            let mut length = [0; 2];
            read_primary(source, at, &mut length)?;
            let length = match u16::from_le_bytes(length) {
                0 => 1 << 16,
                length => usize::from(length),
            };
            let mut record = [0; KNOWN_BYTES_MAX];
            let record = &mut record[..length.min(KNOWN_BYTES_MAX)];
            read_primary(source, at + 2, record)?;
            configs.parse(codec, record, block).ok_or(Error::CodecConfig { codec })?;
            // A record is at most 64 KiB + 2 and there are at most four: no overflow.
            at = (at + 2 + length as u64).next_multiple_of(4);
        }
        Ok(configs)
    }

    /// What serves the data of both: for each codec the larger of what they need.
    pub(crate) fn joined(self, other: Self) -> Self {
        // 0 stands for the largest distance.
        let distance = |own: u16| own.wrapping_sub(1);
        let farther = distance(self.lz4.0).max(distance(other.lz4.0)).wrapping_add(1);
        Self {
            available: self.available | other.available,
            lzma_dict_bytes: self.lzma_dict_bytes.max(other.lzma_dict_bytes),
            lz4: (farther, self.lz4.1.max(other.lz4.1)),
            zstd_window_log: self.zstd_window_log.max(other.zstd_window_log),
        }
    }

    /// How far back LZ4 data refer, in bytes; 0 for 64 KiB.
    pub(crate) fn lz4_distance(&self) -> u16 {
        self.lz4.0
    }

    /// As in an image without records, whose superblock has the distance.
    pub(crate) fn legacy(lz4_distance: u16) -> Self {
        Self { lz4: (lz4_distance, 0), ..Self::LEGACY }
    }

    /// The record of one codec, with its length in front and padded to where the next may begin.
    pub(crate) fn record(&self, codec: Codec) -> Vec<u8> {
        let body = match codec {
            Codec::Lz4 => [&self.lz4.0.to_le_bytes()[..], &self.lz4.1.to_le_bytes(), &[0; 10]].concat(),
            Codec::Lzma => [&self.lzma_dict_bytes.to_le_bytes()[..], &[0; 10]].concat(),
            Codec::Deflate => vec![15, 0, 0, 0, 0, 0],
            Codec::Zstd => vec![0, self.zstd_window_log, 0, 0, 0, 0],
        };
        let length = u16::try_from(body.len()).expect("records are short");
        let mut record = [&length.to_le_bytes()[..], &body].concat();
        record.resize(record.len().next_multiple_of(4), 0);
        record
    }

    /// Takes one record in; `None` when it is too short or says what the kernel refuses.
    fn parse(&mut self, codec: Codec, record: &[u8], block: BlockSize) -> Option<()> {
        let sound = match codec {
            Codec::Lz4 => {
                let [one, two, low, high] = *record.first_chunk()?;
                self.lz4 = (u16::from_le_bytes([one, two]), u16::from_le_bytes([low, high]));
                u64::from(self.lz4.1) <= PCLUSTER_BYTES_MAX / block.bytes() && record.len() >= 14
            }
            Codec::Lzma => {
                let [a, b, c, d, low, high] = *record.first_chunk()?;
                self.lzma_dict_bytes = u32::from_le_bytes([a, b, c, d]);
                LZMA_DICT_BYTES.contains(&self.lzma_dict_bytes) && (low, high) == (0, 0) && record.len() >= 14
            }
            // Zero is what mkfs.erofs writes for libdeflate; the window is 32 KiB whatever it says.
            Codec::Deflate => *record.first()? <= 15 && record.len() >= 6,
            Codec::Zstd => {
                let [format, window_log] = *record.first_chunk()?;
                self.zstd_window_log = window_log;
                format == 0 && window_log <= ZSTD_WINDOW_LOG_MAX && record.len() >= 6
            }
        };
        sound.then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(available: u16, records: &[&[u8]]) -> Result<CodecConfigs, Error> {
        let mut bytes: Vec<u8> = Vec::new();
        for &record in records {
            bytes.extend(u16::try_from(record.len()).expect("short").to_le_bytes());
            bytes.extend_from_slice(record);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        CodecConfigs::read(&bytes, 0, available, BlockSize::B4096)
    }

    const LZ4: &[u8] = &[0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    const LZMA: &[u8] = &[0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    const DEFLATE: &[u8] = &[0, 0, 0, 0, 0, 0];
    const ZSTD: &[u8] = &[0, 10, 0, 0, 0, 0];

    #[test]
    fn records_stand_in_the_order_of_the_codecs_numbers() {
        let configs = read(0b1111, &[LZ4, LZMA, DEFLATE, ZSTD]).expect("sound");
        assert_eq!(configs.lzma_dict_bytes, 65536);
        assert!(Codec::ALL.into_iter().all(|codec| configs.has(codec)));
        let configs = read(0b1010, &[LZMA, ZSTD]).expect("sound");
        assert!(configs.has(Codec::Zstd) && !configs.has(Codec::Lz4) && !configs.has(Codec::Deflate));
    }

    #[test]
    fn joined_configurations_serve_both_and_survive_the_disk() {
        let of = |lz4: &[u8], zstd: &[u8]| read(0b1001, &[lz4, zstd]).expect("sound");
        let one = of(&[0, 16, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[0, 3, 0, 0, 0, 0]);
        let two = of(&[0, 32, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[0, 7, 0, 0, 0, 0]);
        let both = one.joined(two);
        assert_eq!((both.lz4, both.zstd_window_log), ((0x2000, 4), 7));
        assert_eq!(one.joined(of(LZ4, ZSTD)).lz4, (0, 16), "0 is the largest distance");
        let lzma = read(2, &[LZMA]).expect("sound");
        let all = both.joined(lzma);
        let records = [Codec::Lz4, Codec::Lzma, Codec::Zstd].map(|codec| all.record(codec)).concat();
        assert_eq!(CodecConfigs::read(&records, 0, 0b1011, BlockSize::B4096).expect("sound"), all);
    }

    #[test]
    fn a_record_may_be_longer_than_is_known_but_not_shorter() {
        read(0b1100, &[&[DEFLATE, &[9; 30]].concat(), ZSTD]).expect("the known part counts");
        for (bits, record) in [(1, LZ4), (2, LZMA), (4, DEFLATE), (8, ZSTD)] {
            read(bits, &[record]).expect("sound");
            let error = read(bits, &[&record[..record.len() - 1]]).expect_err("short");
            assert!(matches!(error, Error::CodecConfig { .. }), "{error}");
        }
    }

    #[test]
    fn what_the_kernel_refuses_is_refused() {
        let cases: [(u16, &[u8]); 6] = [
            (1, &[0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            (2, &[255, 15, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            (2, &[1, 0, 128, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            (2, &[0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            (4, &[16, 0, 0, 0, 0, 0]),
            (8, &[0, 11, 0, 0, 0, 0]),
        ];
        for (bits, record) in cases {
            let error = read(bits, &[record]).expect_err("out of range");
            assert!(matches!(error, Error::CodecConfig { .. }), "{bits}: {error}");
        }
        assert!(matches!(read(16, &[]), Err(Error::UnknownCodecs { bits: 16 })));
    }
}
