//! An object whose attribute and durable map hold any bytes, opened and read.
//!
//! Input: a byte, the length of the attribute, the attribute, and the map. The byte's lowest bit says whether checksums
//! are set right first, so that what lies behind them is reached; the next, whether there is a map at all.
//!
//! Invariants: opening ends in an object or an error. Unless somebody forged a checksum, what is said to be there has
//! the object's bytes, although all else in the data file is wrong; and what is filled afterwards is right and complete.

#![cfg_attr(fuzzing, no_main)]

#[path = "../support/model.rs"]
mod model;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use model::{BLOCK, Kept, SIZE, check, complete};
use rustix::fs::{XattrFlags, getxattr, setxattr};

/// The attribute in which a data file says what it is.
const ATTRIBUTE: &str = "user.larder.object";

/// Bytes of a partial object that are there.
const FILLED: usize = 3 * BLOCK;
const FORGED: u8 = 1;
const MAPPED: u8 = 2;

/// What a partial and a complete object look like on the disk.
static PARTIAL: LazyLock<(Vec<u8>, Vec<u8>)> = LazyLock::new(|| {
    let kept = Kept::new();
    kept.fill(FILLED);
    let data = data_of(&kept);
    (attribute_of(&data), fs::read(map_beside(&data)).expect("partial"))
});
static COMPLETE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let kept = Kept::new();
    kept.fill(SIZE);
    attribute_of(&data_of(&kept))
});

/// The data file of the only object.
fn data_of(kept: &Kept) -> PathBuf {
    let folders = fs::read_dir(kept.root().join("cache/volume")).expect("filled");
    let mut files = folders.map(|folder| folder.expect("readable").path().join("key"));
    files.find(|file| file.exists()).expect("filled")
}

fn map_beside(data: &Path) -> PathBuf {
    data.with_file_name("key@map")
}

fn attribute_of(data: &Path) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    let len = getxattr(data, ATTRIBUTE, &mut bytes).expect("filled");
    bytes.truncate(len);
    bytes
}

/// Makes what lies from `at` on differ from the object: the data file's extents prove nothing.
fn spoil(data: &Path, at: usize) {
    let file = fs::OpenOptions::new().write(true).open(data).expect("filled");
    file.write_all_at(&vec![0; SIZE - at], at as u64).expect("space");
}

fn seeds() -> Vec<Vec<u8>> {
    let (partial, map) = &*PARTIAL;
    let input = |flags: u8, attribute: &[u8], map: &[u8]| {
        let len = u8::try_from(attribute.len()).expect("short");
        [&[flags, len][..], attribute, map].concat()
    };
    vec![
        input(MAPPED, partial, map),
        input(MAPPED | FORGED, partial, map),
        input(0, partial, &[]),
        input(0, &COMPLETE, &[]),
        input(FORGED, &COMPLETE, &[]),
        input(MAPPED, &COMPLETE, map),
    ]
}

/// Sets a CRC-32C over all of `bytes` with its own field 0, as both formats have it.
fn forge(bytes: &mut [u8], at: usize) {
    if let Some(field) = bytes.get_mut(at..at + 4) {
        field.fill(0);
        let crc = crc32c::crc32c(bytes);
        bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    }
}

larder_fuzz::fuzz_target!(seeds, |bytes| {
    let Some((&[flags, len], rest)) = bytes.split_first_chunk() else { return };
    let (attribute, map) = rest.split_at(rest.len().min(len.into()));
    let (mut attribute, mut map) = (attribute.to_vec(), map.to_vec());
    let is_forged = flags & FORGED != 0;
    if is_forged {
        forge(&mut attribute, 4);
        forge(&mut map, 12);
    }
    let kept = Kept::new();
    kept.fill(SIZE);
    let data = data_of(&kept);
    // A complete object vouches for itself: that it is, and has no map, is all that is known of it.
    if attribute != *COMPLETE {
        spoil(&data, FILLED);
    }
    // More than the file system takes is not to be met on a disk either.
    let _ = setxattr(&data, ATTRIBUTE, &attribute, XattrFlags::empty());
    if flags & MAPPED != 0 {
        fs::write(map_beside(&data), &map).expect("space");
    }
    {
        let cache = kept.open().expect("the folder is sound");
        let object = Kept::acquire(&cache).expect("what is not believed is replaced");
        check(&*object, !is_forged);
        complete(&*object, !is_forged);
    }
    let cache = kept.open().expect("the folder is sound");
    let object = Kept::acquire(&cache).expect("just made");
    assert!(object.is_complete());
    check(&*object, !is_forged);
});
