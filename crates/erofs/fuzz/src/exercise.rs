//! Does to an image all that a reader can do, in bounded time, whatever the image claims.
//!
//! Invariants: no panic, extents tile a file without gap or overlap, lookup and listing agree.

use larder_erofs::{DeviceMode, Extent, ExtentKind, FileType, Image, Inode, LogicalAddr};

/// Names visited, at most: a small image can have many directories over the same blocks.
const ENTRIES_MAX: usize = 2_000;
const EXTENTS_MAX: usize = 200;
/// Files whose contents are read, at most, and how much of each in one call.
const FILES_MAX: usize = 100;
const PIECE_BYTES: usize = 16_384;
const XATTR_BYTES_MAX: usize = 1 << 20;

/// Opens `bytes` in both ways and goes through what can be reached.
pub fn exercise(bytes: &[u8]) {
    for mode in [DeviceMode::Separate, DeviceMode::Flat] {
        if let Ok(image) = Image::open_with(bytes.to_vec(), mode) {
            walk(&image);
        }
    }
}

fn walk(image: &Image) {
    for (number, entry) in image.walk().take(ENTRIES_MAX).enumerate() {
        let Ok(entry) = entry else { return };
        let inode = entry.inode;
        extents(image, &inode);
        if number < FILES_MAX {
            contents(image, &inode);
        }
        if let Ok(xattrs) = image.xattrs(&inode) {
            assert!(xattrs.iter().map(|xattr| xattr.value.len()).sum::<usize>() <= 17 * XATTR_BYTES_MAX);
            for xattr in xattrs.iter().take(8) {
                let _ = image.xattr(&inode, &xattr.name);
            }
        }
        let _ = image.xattr(&inode, b"user.absent");
        match inode.kind {
            FileType::Directory => list(image, &inode),
            FileType::Symlink => {
                if let Ok(target) = image.read_link(&inode) {
                    assert!(!target.is_empty() && !target.contains(&0));
                }
            }
            _ => {}
        }
        let _ = image.resolve(&entry.path);
    }
}

fn list(image: &Image, dir: &Inode) {
    let Ok(listing) = image.read_dir(dir) else { return };
    for entry in listing.take(50) {
        let Ok(entry) = entry else { return };
        assert!((1..=255).contains(&entry.name.len()) && entry.next > 0);
        let _ = image.lookup(dir, &entry.name);
        let _ = image.read_dir_from(dir, entry.next).map(|mut rest| rest.next());
    }
    let _ = image.lookup(dir, b"no such name");
    let _ = image.read_dir_from(dir, u64::MAX).map(|mut rest| rest.next());
    let _ = image.read_dir_from(dir, 13).map(|mut rest| rest.next());
}

fn extents(image: &Image, inode: &Inode) {
    let mut at = LogicalAddr::new(0);
    for _ in 0..EXTENTS_MAX {
        let Ok(Extent { start, len, kind }) = image.map(inode, at) else { return };
        assert_eq!(start, at);
        if len == 0 {
            assert!(at.get() >= inode.size || !inode.kind.has_data());
            return;
        }
        let end = at.checked_add(len).expect("an extent ends within the file");
        assert!(end.get() <= inode.size);
        if let ExtentKind::Device { device, pa } = kind {
            assert!(device.slot().is_some_and(|slot| slot < image.devices().len()));
            assert!(pa.checked_add(len).is_some());
        }
        if let ExtentKind::Encoded(encoded) = kind {
            assert!(encoded.len <= 1 << 20 && encoded.decoded <= 12 << 20);
            assert!(u64::from(encoded.skip) + len <= u64::from(encoded.decoded));
        }
        at = end;
    }
}

/// Reads the beginning of a file, its end and its middle, and asks where these lie.
fn contents(image: &Image, inode: &Inode) {
    let size = inode.size;
    for at in [0, size / 2, size.saturating_sub(PIECE_BYTES as u64), size, u64::MAX] {
        let _ = image.map(inode, LogicalAddr::new(at));
        let len = usize::try_from(size.saturating_sub(at)).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
        let _ = image.read_exact_at(inode, LogicalAddr::new(at), &mut vec![0; len], &mut |_, _, _| Ok(()));
    }
}
