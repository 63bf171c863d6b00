//! Binding: is this directory a cache of this format, and the one that the configuration means?
//!
//! `<root>/format` has two lines, `larder-cache VERSION` and `tag NAME`. A directory of another version is not
//! read: what it holds goes to the graveyard, and is fetched again. `<root>/reserve` has one line: a number of
//! bytes that the cache does not pass, and its checksum in hexadecimal.

use std::io;
use std::path::Path;

use crate::layout::{CACHE, FORMAT, GRAVEYARD, INDEX, RESERVE};
use crate::storage::{Storage, mkdir_durably, write_all};
use crate::store::get_bytes;
use crate::{Error, Tag};

/// Version of the directory: layout, attributes and maps. 1 had no attributes.
pub const FORMAT_VERSION: u32 = 2;
const BYTES_MAX: u64 = 1024;

/// Checks the format and the tag of the directory, whose folders are made already.
pub(crate) fn bind(storage: &dyn Storage, root: &Path, tag: &Tag) -> Result<(), Error> {
    let failed = |source| Error::Root { root: root.to_owned(), source };
    let found = get_bytes(storage, FORMAT, BYTES_MAX).map_err(failed)?;
    let found = found.as_deref().and_then(parse);
    match found {
        Some(found) if found == tag.as_str() => return Ok(()),
        Some(found) => {
            let (root, expected) = (root.to_owned(), tag.as_str().to_owned());
            return Err(Error::Tag { root, found, expected });
        }
        None => {}
    }
    if !storage.list(CACHE).map_err(failed)?.is_empty() {
        tracing::warn!(root = %root.display(), "the cache has another format: everything will be fetched again");
        bury_all(storage).map_err(failed)?;
    }
    write_format(storage, tag).map_err(failed)
}

/// Whether the directory is a cache of this format and tag already.
pub(crate) fn is_bound(storage: &dyn Storage, tag: &Tag) -> bool {
    let found = get_bytes(storage, FORMAT, BYTES_MAX).ok().flatten();
    found.as_deref().and_then(parse).is_some_and(|found| found == tag.as_str())
}

fn parse(bytes: &[u8]) -> Option<String> {
    let mut lines = std::str::from_utf8(bytes).ok()?.lines();
    let version = version_of(lines.next()?)?;
    let tag = lines.next()?.strip_prefix("tag ")?;
    (version == FORMAT_VERSION && lines.next().is_none()).then(|| tag.to_owned())
}

fn version_of(line: &str) -> Option<u32> {
    line.strip_prefix("larder-cache ")?.parse().ok()
}

/// The version of the cache in the directory `root`, without touching it; `None` when none is there, or its file of
/// that name is damaged.
///
/// # Errors
///
/// When the file cannot be read.
pub fn format_version(root: &Path) -> io::Result<Option<u32>> {
    match std::fs::read(root.join(FORMAT)) {
        Ok(bytes) => Ok(std::str::from_utf8(&bytes).ok().and_then(|text| version_of(text.lines().next()?))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn write_format(storage: &dyn Storage, tag: &Tag) -> io::Result<()> {
    let tmp = "tmp/format";
    storage.unlink(tmp)?;
    let file = storage.create(tmp)?;
    write_all(&*file, format!("larder-cache {FORMAT_VERSION}\ntag {tag}\n").as_bytes(), 0)?;
    file.fsync()?;
    storage.rename(tmp, FORMAT)?;
    storage.fsync_dir("")
}

/// Moves every object away, and forgets what is known of them.
fn bury_all(storage: &dyn Storage) -> io::Result<()> {
    storage.unlink(INDEX)?;
    let grave = (0u64..).map(|n| format!("{GRAVEYARD}/format-{n}"));
    for grave in grave {
        if storage.stat(&grave)?.is_none() {
            storage.rename(CACHE, &grave)?;
            break;
        }
    }
    mkdir_durably(storage, CACHE)?;
    storage.fsync_dir(GRAVEYARD)
}

/// The file of a reserve.
pub(crate) fn encode_reserve(bytes: u64) -> String {
    format!("{bytes} {:08x}\n", crc32c::crc32c(bytes.to_string().as_bytes()))
}

/// The reserve on the disk; none when there is none, or it is damaged.
pub(crate) fn read_reserve(storage: &dyn Storage) -> Option<u64> {
    let bytes = get_bytes(storage, RESERVE, BYTES_MAX).ok()??;
    let text = std::str::from_utf8(&bytes).ok()?;
    let reserve = text.split(' ').next()?.parse().ok()?;
    (text == encode_reserve(reserve)).then_some(reserve)
}

/// Removes the reserve, durably: nothing keeps to it without a quota, and what it says would soon be too little.
pub(crate) fn forget_reserve(storage: &dyn Storage) -> io::Result<()> {
    if storage.unlink(RESERVE)? { storage.fsync_dir("") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fitness;
    use crate::storage::sim::SimDisk;

    fn disk() -> SimDisk {
        let disk = SimDisk::new(0);
        fitness::try_out(&disk).expect("fit");
        disk
    }

    fn tag(text: &str) -> Tag {
        Tag::new(text).expect("valid")
    }

    #[test]
    fn a_cache_with_another_tag_is_refused_with_both() {
        let (disk, root) = (disk(), Path::new("/sim"));
        bind(&disk, root, &tag("one")).expect("new");
        bind(&disk, root, &tag("one")).expect("the same");
        let refused = bind(&disk, root, &tag("two")).expect_err("another");
        assert!(
            matches!(&refused, Error::Tag { found, expected, .. } if found == "one" && expected == "two")
        );
        assert!(refused.hint().is_some());
    }

    #[test]
    fn a_directory_of_another_format_is_buried_whole() {
        for format in [None, Some("larder-cache 1\ntag larder\n"), Some("x"), Some("")] {
            let disk = disk();
            disk.mkdir("cache/v").expect("space");
            if let Some(text) = format {
                write_all(&*disk.create(FORMAT).expect("space"), text.as_bytes(), 0).expect("space");
            }
            bind(&disk, Path::new("/sim"), &Tag::default()).expect("made anew");
            assert!(disk.list(CACHE).expect("readable").is_empty());
            assert_eq!(disk.list(GRAVEYARD).expect("readable").len(), 1, "{format:?}");
            bind(&disk, Path::new("/sim"), &Tag::default()).expect("the same");
        }
    }

    #[test]
    fn a_damaged_reserve_is_none() {
        let disk = disk();
        assert_eq!(read_reserve(&disk), None);
        for (text, reserve) in [(encode_reserve(1 << 40), Some(1 << 40)), ("5 00000000\n".into(), None)] {
            disk.unlink(RESERVE).expect("writable");
            write_all(&*disk.create(RESERVE).expect("space"), text.as_bytes(), 0).expect("space");
            assert_eq!(read_reserve(&disk), reserve);
        }
    }
}
