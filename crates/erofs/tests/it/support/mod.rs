//! What the tests share: write a tree, list an image as plain data, list a host directory likewise.

pub mod crafted;
pub mod fsck;
pub mod kernel;
pub mod mkfs;
pub mod recipes;
pub mod stack;

use std::collections::BTreeMap;
use std::fs::File;
use std::num::NonZero;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use larder_erofs::writer::{Options, ScanOptions, Summary, Tree, write_data};
use larder_erofs::{DeviceTag, Error, FileType, Image, LogicalAddr, Rdev, ReadDevice, Timestamp, Xattr};

/// An object as both sides can tell it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Object {
    pub kind: FileType,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u64,
    pub size: u64,
    pub mtime: Timestamp,
    pub rdev: Rdev,
    /// Contents or target.
    pub data: Vec<u8>,
    pub xattrs: Vec<Xattr>,
}

pub type Listing = BTreeMap<Vec<u8>, Object>;

/// A finished image with its blob.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Built {
    pub metadata: Vec<u8>,
    pub blob: Vec<u8>,
    pub summary: Summary,
}

pub fn options(jobs: usize) -> Options<'static> {
    Options { jobs: NonZero::new(jobs).expect("at least one"), ..Options::default() }
}

pub fn build(tree: Tree, options: &Options<'_>) -> Result<Built, Error> {
    let mut blob = Vec::new();
    let data = write_data(tree, options, &mut blob)?;
    let tags = vec![DeviceTag::EMPTY; data.devices().len()];
    let mut metadata = Vec::new();
    let summary = data.write_metadata(&tags, &mut metadata)?;
    Ok(Built { metadata, blob, summary })
}

pub fn build_dir(dir: &Path, options: &Options<'_>) -> Result<Built, Error> {
    build(scan(dir)?, options)
}

pub fn scan(dir: &Path) -> Result<Tree, Error> {
    let mut tree = Tree::new();
    tree.add_root_from(dir, b"", &ScanOptions::default(), &mut |_| true)?;
    Ok(tree)
}

/// Lists an image whose devices are `blobs`.
pub fn list_image(image: &Image, blobs: &[&[u8]]) -> Result<Listing, Error> {
    list_image_from(image, &mut |device, pa, buf| {
        let blob = blobs[device.slot().expect("an extra device")];
        let start = usize::try_from(pa.get()).expect("small");
        // The last block of a blob may be short: mkfs.erofs does not pad it.
        let have = blob.get(start..).unwrap_or_default();
        let len = buf.len().min(have.len());
        buf[..len].copy_from_slice(&have[..len]);
        Ok(())
    })
}

/// Lists an image whose devices `read_device` reads.
pub fn list_image_from(image: &Image, read_device: &mut ReadDevice<'_>) -> Result<Listing, Error> {
    let mut listing = Listing::new();
    for entry in image.walk() {
        let entry = entry?;
        let inode = entry.inode;
        let data = match inode.kind {
            FileType::Regular => {
                let mut data = vec![0; usize::try_from(inode.size).expect("small")];
                image.read_exact_at(&inode, LogicalAddr::new(0), &mut data, read_device)?;
                data
            }
            FileType::Symlink => image.read_link(&inode)?,
            _ => Vec::new(),
        };
        let mut xattrs = image.xattrs(&inode)?;
        xattrs.sort();
        for xattr in &xattrs {
            assert_eq!(image.xattr(&inode, &xattr.name)?.as_ref(), Some(&xattr.value));
        }
        assert_eq!(image.xattr(&inode, b"user.absent")?, None);
        assert_eq!(image.resolve(&entry.path)?, Some(inode.nid), "lookup finds what the walk found");
        let object = Object {
            kind: inode.kind,
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            nlink: inode.nlink.into(),
            size: if inode.kind == FileType::Directory { 0 } else { inode.size },
            mtime: inode.mtime,
            rdev: inode.rdev,
            data,
            xattrs,
        };
        listing.insert(entry.path, object);
    }
    Ok(listing)
}

/// Lists a directory of the host; link counts are those within it.
pub fn list_host(root: &Path) -> Listing {
    let mut listing = Listing::new();
    list_host_below(root, root, &mut listing);
    let mut links: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    let identity = |path: &[u8]| {
        let path = root.join(std::ffi::OsStr::from_bytes(path));
        let stat = std::fs::symlink_metadata(path).expect("still there");
        (stat.dev(), stat.ino())
    };
    for path in listing.keys() {
        *links.entry(identity(path)).or_default() += 1;
    }
    let parents: Vec<Vec<u8>> = listing
        .iter()
        .filter(|(path, object)| object.kind == FileType::Directory && !path.is_empty())
        .map(|(path, _)| path.iter().rposition(|&b| b == b'/').map_or(vec![], |at| path[..at].to_vec()))
        .collect();
    for (path, object) in &mut listing {
        object.nlink = match object.kind {
            FileType::Directory => 2 + parents.iter().filter(|&parent| parent == path).count() as u64,
            _ => links[&identity(path)],
        };
    }
    listing
}

fn list_host_below(root: &Path, path: &Path, listing: &mut Listing) {
    let stat = match std::fs::symlink_metadata(path) {
        // Where one layer alone has a directory, overlayfs lists its whiteouts, and then denies that they are there.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
        stat => stat.expect("readable"),
    };
    let kind = stat.file_type();
    let kind = match () {
        () if kind.is_dir() => FileType::Directory,
        () if kind.is_symlink() => FileType::Symlink,
        () if kind.is_fifo() => FileType::Fifo,
        () if kind.is_socket() => FileType::Socket,
        () if kind.is_char_device() => FileType::CharDevice,
        () if kind.is_block_device() => FileType::BlockDevice,
        () => FileType::Regular,
    };
    let data = match kind {
        FileType::Regular => std::fs::read(path).expect("readable"),
        FileType::Symlink => std::fs::read_link(path).expect("a link").as_os_str().as_bytes().to_vec(),
        _ => Vec::new(),
    };
    let (major, minor) = (rustix::fs::major(stat.rdev()), rustix::fs::minor(stat.rdev()));
    let object = Object {
        kind,
        mode: u16::try_from(stat.mode() & 0o7777).expect("12 bits"),
        uid: stat.uid(),
        gid: stat.gid(),
        nlink: 0,
        size: if kind.has_data() && kind != FileType::Directory { stat.size() } else { 0 },
        mtime: Timestamp::new(stat.mtime(), u32::try_from(stat.mtime_nsec()).expect("below 10^9")),
        rdev: Rdev::new(major, minor).expect("the kernel's own"),
        data,
        xattrs: host_xattrs(path),
    };
    let relative = path.strip_prefix(root).expect("below").as_os_str().as_bytes().to_vec();
    listing.insert(relative, object);
    if kind == FileType::Directory {
        for entry in std::fs::read_dir(path).expect("readable") {
            list_host_below(root, &entry.expect("readable").path(), listing);
        }
    }
}

fn host_xattrs(path: &Path) -> Vec<Xattr> {
    let mut names = vec![0; 65536];
    let len = rustix::fs::llistxattr(path, names.as_mut_slice()).unwrap_or(0);
    let names = names[..len].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    let mut xattrs: Vec<_> = names
        .map(|name| {
            let mut value = vec![0; 65536];
            let len = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).expect("listed");
            value.truncate(len);
            Xattr { name: name.to_vec(), value }
        })
        .collect();
    xattrs.sort();
    xattrs
}

/// Compares two listings and names the first difference, contents left out.
pub fn assert_same(found: &Listing, expected: &Listing) {
    let names = |listing: &Listing| {
        listing.keys().map(|name| String::from_utf8_lossy(name).into_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(found), names(expected));
    for (path, object) in expected {
        let other = &found[path];
        let path = String::from_utf8_lossy(path);
        assert_eq!(
            Object { data: vec![], ..other.clone() },
            Object { data: vec![], ..object.clone() },
            "{path}"
        );
        assert!(other.data == object.data, "{path}: contents differ");
    }
}

/// Runs a tool of erofs-utils; `None`, and says so, when it is not installed.
pub fn tool(name: &str, args: &[&std::ffi::OsStr]) -> Option<(bool, String)> {
    match Command::new(name).args(args).output() {
        Ok(output) => {
            let text = [output.stdout, output.stderr].concat();
            Some((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
        }
        Err(error) => {
            eprintln!("SKIPPED: {name} cannot run here: {error}; install erofs-utils");
            None
        }
    }
}

pub fn tempdir() -> tempfile::TempDir {
    tempfile::tempdir().expect("can make")
}

/// Bytes that differ from chunk to chunk.
pub fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len)
        .map(|n| u8::try_from((n * n / 7 + n / 255 + usize::from(seed) * 31) % 251).unwrap_or(0))
        .collect()
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Writes a file with holes: `pieces` are (offset, bytes).
pub fn sparse_file(path: &Path, len: u64, pieces: &[(u64, &[u8])]) {
    let file = File::create(path).expect("can create");
    file.set_len(len).expect("can grow");
    for (at, bytes) in pieces {
        file.write_all_at(bytes, *at).expect("can write");
    }
}
