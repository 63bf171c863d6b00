//! The parsers by themselves, for the targets in `fuzz/`: each takes any bytes and must return.

use crate::codec::{CodecConfigs, decode};
use crate::dirent::DirBlock;
use crate::zmap::{CompactTable, MapHeader, Record, full_entry};
use crate::{Codec, Layout, Superblock};

/// Most decoded bytes asked for: more than the window of any codec but LZMA's.
const DECODED_BYTES_MAX: usize = 2 << 20;

/// Reads a superblock and its codec configurations; the bytes begin where an image does.
pub fn superblock(bytes: &[u8]) {
    let _ = Superblock::read(&bytes.to_vec());
}

/// Decodes a pcluster: one byte for the codec, two for the length in units of 32 bytes, then the stream.
pub fn codec(bytes: &[u8]) {
    let Some((&[number, low, high], stream)) = bytes.split_first_chunk() else { return };
    let Some(codec) = Codec::from_number(number & 3) else { return };
    let len = (usize::from(u16::from_le_bytes([low, high])) * 32).min(DECODED_BYTES_MAX);
    let mut configs = CodecConfigs::LEGACY;
    configs.lzma_dict_bytes = 8 << 20;
    let _ = decode(codec, &configs, stream, &mut vec![0; len]);
}

/// The input of [`codec`] that decodes `stream` to `decoded` bytes, or a few less; `None` when that is too much.
pub fn codec_input(codec: Codec, decoded: u64, stream: &[u8]) -> Option<Vec<u8>> {
    let [low, high] = u16::try_from(decoded / 32).ok()?.to_le_bytes();
    Some([&[codec.number(), low, high], stream].concat())
}

/// Decodes a map header, and entries of all forms from what follows.
pub fn index(bytes: &[u8]) {
    let Some((header, rest)) = bytes.split_first_chunk::<8>() else { return };
    for layout in [Layout::CompressedFull, Layout::CompressedCompact] {
        for wide in [false, true] {
            let _ = MapHeader::decode(*header, layout, 12, !wide, wide).map(
                |header| matches!(header, MapHeader::Map(map) if map.codec(0).and(map.codec(1)).is_ok()),
            );
        }
    }
    let _ = rest.as_chunks().0.iter().filter(|entry| full_entry(**entry) == full_entry([0; 8])).count();
    for (size, narrow) in [(8, false), (32, true)] {
        let Ok(table) = CompactTable::new(0, (rest.len() / 2) as u64, 12, narrow) else { continue };
        for pack in rest.chunks(size) {
            for lcn in 0..16 {
                for big in [false, true] {
                    let _ = table.pack(lcn).map(|place| table.entry(lcn, place, pack, big));
                }
            }
        }
    }
    for size in [4, 8, 16, 32] {
        let _ = rest.chunks(size).filter_map(Record::decode).filter(|record| record.codec().is_ok()).count();
    }
}

/// Lists and searches a directory block.
pub fn directory(bytes: &[u8]) {
    let Ok(block) = DirBlock::parse(bytes) else { return };
    for index in 0..block.count() {
        if let Ok(entry) = block.entry(index) {
            let _ = block.find(entry.name);
        }
    }
    let _ = block.find(b"no such name");
}
