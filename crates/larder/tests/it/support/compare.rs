//! Whether two trees are the same, content and metadata.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{lgetxattr, llistxattr};
use rustix::io::Errno;

/// Everything of one thing in a tree but its content.
#[derive(Debug, Eq, PartialEq)]
struct Facts {
    mode: u32,
    uid: u32,
    gid: u32,
    /// None for directories: file systems count differently.
    links_and_size: Option<(u64, u64)>,
    rdev: u64,
    mtime: (i64, i64),
    link: Option<PathBuf>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Insists that `found` shows exactly what `expected` holds. Returns how many things were compared.
///
/// # Panics
///
/// At the first difference, with its path.
#[track_caller]
pub fn assert_same(expected: &Path, found: &Path) -> usize {
    let mut linked = BTreeMap::new();
    let mut linked_there = BTreeMap::new();
    compare(expected, found, Path::new(""), &mut linked, &mut linked_there)
}

type Linked = BTreeMap<(u64, u64), PathBuf>;

#[track_caller]
fn compare(
    expected: &Path,
    found: &Path,
    at: &Path,
    linked: &mut Linked,
    linked_there: &mut Linked,
) -> usize {
    let (here, there) = (expected.join(at), found.join(at));
    let (meta, meta_there) = (stat(&here), stat(&there));
    assert_eq!(facts(&here, &meta), facts(&there, &meta_there), "{}", at.display());
    if meta.is_dir() {
        let names = names(&here);
        assert_eq!(names, self::names(&there), "{}", at.display());
        let below = names.iter().map(|name| compare(expected, found, &at.join(name), linked, linked_there));
        return 1 + below.sum::<usize>();
    }
    if meta.nlink() > 1 {
        // What is one file here is one file there.
        let first = linked.entry((meta.dev(), meta.ino())).or_insert_with(|| at.to_owned()).clone();
        let first_there =
            linked_there.entry((meta_there.dev(), meta_there.ino())).or_insert_with(|| at.to_owned());
        assert_eq!(first, *first_there, "{}: linked to another file", at.display());
    }
    if meta.is_file() {
        same_content(&here, &there);
    }
    1
}

#[track_caller]
fn stat(path: &Path) -> fs::Metadata {
    fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[track_caller]
fn names(dir: &Path) -> BTreeSet<std::ffi::OsString> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut names = BTreeSet::new();
    for entry in entries {
        let name = entry.unwrap_or_else(|error| panic!("{}: {error}", dir.display())).file_name();
        assert!(names.insert(name.clone()), "{}: {name:?} is listed twice", dir.display());
    }
    names
}

#[track_caller]
fn facts(path: &Path, meta: &fs::Metadata) -> Facts {
    let kind = meta.file_type();
    let is_device = kind.is_char_device() || kind.is_block_device();
    Facts {
        mode: meta.mode(),
        uid: meta.uid(),
        gid: meta.gid(),
        links_and_size: (!meta.is_dir()).then(|| (meta.nlink(), meta.size())),
        rdev: if is_device { meta.rdev() } else { 0 },
        mtime: (meta.mtime(), meta.mtime_nsec()),
        link: kind.is_symlink().then(|| fs::read_link(path).expect("a link can be read")),
        xattrs: xattrs(path),
    }
}

#[track_caller]
fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 65_536];
    let len = match llistxattr(path, names.as_mut_slice()) {
        Ok(len) => len,
        Err(Errno::OPNOTSUPP) => 0,
        Err(error) => panic!("{}: xattrs: {error}", path.display()),
    };
    names.truncate(len);
    let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let read = |name: &[u8]| {
        let mut value = vec![0; 65_536];
        let len = lgetxattr(path, name, value.as_mut_slice())
            .unwrap_or_else(|error| panic!("{}: {}: {error}", path.display(), String::from_utf8_lossy(name)));
        value.truncate(len);
        (name.to_vec(), value)
    };
    names.map(read).collect()
}

/// Compares data; long holes of both are read once, by skipping what `SEEK_DATA` leaves out of the first.
#[track_caller]
fn same_content(here: &Path, there: &Path) {
    let open = |path: &Path| File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (mut one, mut other) = (open(here), open(there));
    if stat(here).size() > 1 << 30 {
        return same_where_there_is_data(&one, &other, here);
    }
    let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0;
    loop {
        let (len, len_there) = (fill(&mut one, &mut a, here), fill(&mut other, &mut b, there));
        assert_eq!(len, len_there, "{}: length at {at}", there.display());
        if let Some(first) = (0..len).find(|n| a[*n] != b[*n]) {
            panic!("{}: byte {} is {:#x} instead of {:#x}", there.display(), at + first, b[first], a[first]);
        }
        if len == 0 {
            return;
        }
        at += len;
    }
}

#[track_caller]
fn same_where_there_is_data(one: &File, other: &File, place: &Path) {
    use std::os::unix::fs::FileExt as _;
    let mut at = 0;
    while let Ok(start) = rustix::fs::seek(one, rustix::fs::SeekFrom::Data(at)) {
        let end = rustix::fs::seek(one, rustix::fs::SeekFrom::Hole(start)).expect("a hole or the end");
        let len = usize::try_from(end - start).expect("a small piece");
        let (mut a, mut b) = (vec![0; len], vec![0; len]);
        one.read_exact_at(&mut a, start).expect("data");
        other.read_exact_at(&mut b, start).unwrap_or_else(|error| panic!("{}: {error}", place.display()));
        assert!(a == b, "{}: differs in {start}..{end}", place.display());
        at = end;
    }
}

#[track_caller]
fn fill(file: &mut File, buf: &mut [u8], place: &Path) -> usize {
    let mut len = 0;
    while len < buf.len() {
        match file
            .read(&mut buf[len..])
            .unwrap_or_else(|error| panic!("{}: byte {len}: {error}", place.display()))
        {
            0 => break,
            more => len += more,
        }
    }
    len
}
