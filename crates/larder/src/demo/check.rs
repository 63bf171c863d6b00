//! What is here is what the source has.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use anyhow::Context as _;
use larder_erofs::{ExtentKind, FileType, Image, Inode, LogicalAddr};
use larder_image::LoadedImage;

use super::tree::{Amount, Source};
use crate::api::types::Records;

/// What is read at once.
const PIECE_BYTES: usize = 256 * 1024;

/// Compares every file that was fetched whole with its source, byte by byte, through the mount at `target`.
///
/// Files of which a byte is still on the far side are passed over: comparing must not fetch.
///
/// # Errors
///
/// When a file differs or cannot be read; names the first.
pub fn compare(
    source: &Source,
    image: &LoadedImage,
    metadata: &Image,
    records: &Records,
    target: &Path,
) -> anyhow::Result<Amount> {
    let present = Present::of(image, records);
    let mut compared = Amount::default();
    for entry in metadata.walk() {
        let entry = entry?;
        if entry.inode.kind != FileType::Regular || !present.has(metadata, &entry.inode)? {
            continue;
        }
        let path = Path::new("/").join(OsString::from_vec(entry.path));
        let Some(host) = source.on_host(&path) else { continue };
        let mounted = target.join(path.strip_prefix("/")?);
        let same =
            same(&mounted, &host).with_context(|| format!("{}: cannot be compared", mounted.display()))?;
        anyhow::ensure!(same, "{}: differs from {}", mounted.display(), host.display());
        compared.add(entry.inode.size);
    }
    Ok(compared)
}

/// The byte ranges of each device that are here.
struct Present {
    devices: Vec<Vec<(u64, u64)>>,
}

impl Present {
    fn of(image: &LoadedImage, records: &Records) -> Self {
        let device = |name: &str| {
            let position = records.blobs.iter().position(|blob| blob.name == name);
            let fills = records.fills.iter().filter(|fill| fill.ok && Some(fill.blob) == position);
            merge(fills.map(|fill| (fill.start, fill.end)).collect())
        };
        Self { devices: image.devices.iter().map(|layer| device(layer.table.identity().as_str())).collect() }
    }

    /// Whether every byte of the file is here.
    fn has(&self, metadata: &Image, inode: &Inode) -> anyhow::Result<bool> {
        let mut at = 0;
        while at < inode.size {
            let extent = metadata.map(inode, LogicalAddr::new(at))?;
            anyhow::ensure!(extent.len > 0, "the metadata has an empty extent");
            if let ExtentKind::Device { device, pa } = extent.kind {
                let ranges = device.slot().and_then(|slot| self.devices.get(slot));
                let end = pa.get().saturating_add(extent.len);
                if !ranges.is_some_and(|ranges| covers(ranges, pa.get(), end)) {
                    return Ok(false);
                }
            }
            at += extent.len;
        }
        Ok(true)
    }
}

/// Sorts ranges, and joins those that touch.
fn merge(mut ranges: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    ranges.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for (start, end) in ranges {
        match merged.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => merged.push((start, end)),
        }
    }
    merged
}

/// Whether one of the merged ranges holds `start..end`.
fn covers(ranges: &[(u64, u64)], start: u64, end: u64) -> bool {
    let after = ranges.partition_point(|range| range.0 <= start);
    after.checked_sub(1).and_then(|at| ranges.get(at)).is_some_and(|range| end <= range.1)
}

fn same(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    let (mut left, mut right) = (Vec::with_capacity(PIECE_BYTES), Vec::with_capacity(PIECE_BYTES));
    loop {
        for (file, piece) in [(&mut one, &mut left), (&mut other, &mut right)] {
            piece.clear();
            file.take(PIECE_BYTES as u64).read_to_end(piece)?;
        }
        if left != right || left.is_empty() {
            return Ok(left == right);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_are_one() {
        let ranges = merge(vec![(20, 30), (0, 10), (10, 15), (12, 14)]);
        assert_eq!(ranges, [(0, 15), (20, 30)]);
        for (start, end, expected) in
            [(0, 15, true), (3, 4, true), (14, 16, false), (15, 16, false), (20, 30, true), (31, 32, false)]
        {
            assert_eq!(covers(&ranges, start, end), expected, "{start}..{end}");
        }
        assert!(!covers(&[], 0, 1));
    }

    #[test]
    fn files_differ_by_content_or_length() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let write = |name: &str, data: &[u8]| {
            let path = temp.path().join(name);
            std::fs::write(&path, data).expect("a file can be written");
            path
        };
        let long = vec![7; PIECE_BYTES * 2 + 1];
        let (a, b) = (write("a", &long), write("b", &long));
        let shorter = write("c", &long[1..]);
        assert!(same(&a, &b).expect("both can be read"));
        assert!(!same(&a, &shorter).expect("both can be read"));
        assert!(same(&a, Path::new("/nonexistent")).is_err());
    }
}
