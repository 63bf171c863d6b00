//! [`index_tar`]: an image of metadata whose data are the archive itself, as a device.

use std::io::Read;

use xxhash_rust::xxh3::Xxh3;

use super::super::data::{DataDevice, NO_FILE, Totals, WrittenData};
use super::super::image::{IndexRules, Records};
use super::super::image_options::ImageOptions;
use super::super::options::Geometry;
use super::super::order::order;
use super::super::recipe::Recipe;
use super::super::runs::{BlockRef, FileRuns, Target, merged_bits};
use super::super::text::index;
use super::super::tree::Tree;
use super::claims::{Claims, HoleUnits};
use super::{Adder, Entries, EntryKind, TarOptions};
use crate::{BlockSize, Error, Incompat};

/// Archives keep contents at multiples of 512 bytes, so that is the block.
const BLOCK_BITS: u8 = 9;

/// Reads an archive and says what an image over it needs: the archive stays as it is, and is the image's one device.
///
/// Blocks have 512 bytes, whatever `options` say; nothing is compressed. The image can be mounted with the archive as
/// its device, or with the archive appended to it (Linux 6.4).
///
/// # Errors
///
/// [`Error::Tar`] and [`Error::ReadTar`] for an archive that is damaged or cannot be read,
/// [`Error::Unrepresentable`] for a sparse file whose pieces do not begin at multiples of 512 bytes,
/// [`Error::SparseClaims`] when holes need a table beyond the limit.
pub fn index_tar<R: Read>(
    reader: R,
    tar: &TarOptions<'_>,
    options: &ImageOptions<'_>,
) -> Result<WrittenData, Error> {
    let options =
        &ImageOptions { block_bits: BLOCK_BITS, compressors: Vec::new(), metabox: None, ..options.clone() };
    let block = options.check()?;
    let mut entries = Entries::new(Hashing { reader, hasher: Xxh3::new() });
    let mut adder = Adder::new(Tree::new(), *tar);
    let (mut runs, mut files, mut claims) = (FileRuns::default(), Vec::new(), Claims::default());
    while let Some(entry) = entries.next()? {
        let Some(node) = adder.add(&entry)? else { continue };
        let EntryKind::File { size, at, map, .. } = &entry.kind else { continue };
        runs.begin_file();
        files.push(node);
        let whole = [(0, *size)];
        let pieces = map.as_deref().unwrap_or(&whole);
        add_runs(&mut runs, pieces, *size, *at, block).ok_or_else(|| Error::Unrepresentable {
            path: crate::error::path_of(&entry.path),
            reason: "is a sparse file whose pieces do not begin at multiples of 512 bytes",
        })?;
        if let Some(map) = map {
            let bits = block.bits() + merged_bits(runs.of(files.len() - 1), block, block.bits());
            let stored: u64 = map.iter().map(|&(_, len)| len).sum();
            // A hole is one run until the table is made, which is after all has been read.
            let units = HoleUnits { read: u64::MAX, table: 1 << bits };
            let mut claimant = claims.begin(&entry.path, *size, stored, units, entries.position())?;
            claims.pass(&mut claimant, size.saturating_sub(stored), entries.position())?;
            entries.skip_contents()?;
            claims.end(&claimant, entries.position())?;
        }
    }
    entries.finish()?;
    let tree = adder.finish()?;
    let order = order(&tree);
    let mut file_of = vec![NO_FILE; tree.nodes.len()];
    for (file, &node) in (0..).zip(&files) {
        file_of[index(node)] = file;
    }
    let bytes = entries.position();
    let mut content = [0; 32];
    content[..16].copy_from_slice(&entries.reader.hasher.digest128().to_le_bytes());
    let file_bytes = order.iter().map(|&node| tree.nodes[index(node)].size).sum();
    Ok(WrittenData {
        tree,
        order,
        file_of,
        runs,
        places: Vec::new(),
        index_rules: IndexRules { block, legacy: false, records: Records::default() },
        geometry: Geometry { block, chunk_bits: block.bits() },
        recipe: Recipe::of_image(options, 0, Incompat::empty(), (0, Vec::new())),
        packed: None,
        metabox: None,
        devices: vec![DataDevice::Blob { bytes }],
        layer_devices: Vec::new(),
        device_ids: vec![1],
        content,
        totals: Totals { file_bytes, blob_bytes: bytes, ..Totals::default() },
    })
}

/// A reader that sums up what passes: two archives that differ make images with different identities.
struct Hashing<R> {
    reader: R,
    hasher: Xxh3,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let len = self.reader.read(buf)?;
        self.hasher.update(&buf[..len]);
        Ok(len)
    }
}

/// Says where the pieces of a file lie; `None` when a block cannot.
fn add_runs(runs: &mut FileRuns, map: &[(u64, u64)], size: u64, at: u64, block: BlockSize) -> Option<()> {
    let (mut end, mut at) = (0, at);
    for &(offset, len) in map.iter().filter(|&&(_, len)| len > 0) {
        if block.offset(offset) != 0 || block.offset(at) != 0 {
            return None;
        }
        runs.push((offset - end) >> block.bits(), Target::Hole, 1);
        runs.push(block.blocks(len), Target::Data(BlockRef::new(0, at >> block.bits())?), 1);
        // The last block of a piece is only whole at the end of the file.
        if block.offset(len) != 0 && offset + len != size {
            return None;
        }
        at += len;
        end = (offset + len).checked_next_multiple_of(block.bytes())?;
    }
    let blocks = block.blocks(size);
    runs.push(blocks.saturating_sub(end >> block.bits()), Target::Hole, 1);
    Some(())
}
