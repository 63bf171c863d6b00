//! From fetched blobs to a tree on disk: one pass over each blob, as an engine unpacks a layer.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bytes::Bytes;
use larder_erofs::{ExtentKind, FileType, Image, Inode, LogicalAddr, Nid, WalkEntry};
use larder_image::{Chunk, Layer, LoadedImage};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use super::pull::blob_path;
use super::segments::{Segment, Segments};
use crate::output::progress::Progress;

/// Unpacks the image whose blobs lie in `blobs` into the empty directory `root`: directories, files, links, modes and
/// times; owners are those of the caller.
///
/// # Errors
///
/// When a blob is damaged, or the tree cannot be written.
pub(super) fn extract(image: &LoadedImage, blobs: &Path, root: &Path) -> anyhow::Result<()> {
    let erofs = Image::open(decode_whole(&image.metadata, blobs)?)?;
    let mut unpacking = Unpacking::new(root, image.devices.len());
    for entry in erofs.walk() {
        unpacking.enter(&erofs, entry?)?;
    }
    let total = image.devices.iter().map(|layer| layer.table.decoded_size()).fold(0, u64::saturating_add);
    let progress = Progress::bytes("unpacking", Some(total));
    let mut before = 0;
    let segments = std::mem::take(&mut unpacking.segments);
    for (layer, segments) in image.devices.iter().zip(segments) {
        unpacking.pour(layer, blobs, Segments::new(segments), &|done| progress.set(before + done))?;
        before = before.saturating_add(layer.table.decoded_size());
    }
    unpacking.finish()
}

fn decode_whole(layer: &Layer, blobs: &Path) -> anyhow::Result<Vec<u8>> {
    let blob = Blob::open(layer, blobs)?;
    let mut decoded = Vec::new();
    for chunk in layer.table.chunks() {
        decoded.extend_from_slice(&blob.decode(&chunk)?);
    }
    Ok(decoded)
}

/// A fetched blob.
struct Blob {
    file: File,
    path: PathBuf,
}

impl Blob {
    fn open(layer: &Layer, blobs: &Path) -> anyhow::Result<Self> {
        let path = blob_path(blobs, layer.descriptor.digest());
        let file = File::open(&path).with_context(|| format!("{}: cannot be opened", path.display()))?;
        Ok(Self { file, path })
    }

    fn decode(&self, chunk: &Chunk<'_>) -> anyhow::Result<Bytes> {
        let mut stored = vec![0; usize::try_from(chunk.stored.len())?];
        let read = self.file.read_exact_at(&mut stored, chunk.stored.start());
        read.with_context(|| format!("{}: cannot be read", self.path.display()))?;
        Ok(chunk.decode(chunk.verify(Bytes::from(stored))?)?)
    }
}

struct Unpacking<'a> {
    root: &'a Path,
    /// Regular files by number.
    files: Vec<PathBuf>,
    /// What each device's blob has for them.
    segments: Vec<Vec<Segment>>,
    /// Names of objects that have several.
    linked: HashMap<Nid, PathBuf>,
    /// Modes and times, set when everything is written; directories last.
    attributes: Vec<(PathBuf, u16, Timestamps)>,
    /// The file written last: the next bytes are often its own.
    open: Option<(usize, File)>,
}

impl<'a> Unpacking<'a> {
    fn new(root: &'a Path, devices: usize) -> Self {
        Self {
            root,
            files: Vec::new(),
            segments: vec![Vec::new(); devices],
            linked: HashMap::new(),
            attributes: Vec::new(),
            open: None,
        }
    }

    /// Makes the object, without contents; remembers where those are.
    fn enter(&mut self, erofs: &Image, entry: WalkEntry) -> anyhow::Result<()> {
        let WalkEntry { path, inode } = entry;
        let path = self.root.join(OsString::from_vec(path));
        let place = || format!("{}: cannot be unpacked", path.display());
        if inode.kind != FileType::Directory && inode.nlink > 1 {
            if let Some(first) = self.linked.get(&inode.nid) {
                return fs::hard_link(first, &path).with_context(place);
            }
            self.linked.insert(inode.nid, path.clone());
        }
        match inode.kind {
            FileType::Directory if path == *self.root => {}
            FileType::Directory => fs::create_dir(&path).with_context(place)?,
            FileType::Regular => self.file(erofs, &path, &inode).with_context(place)?,
            FileType::Symlink => {
                let target = OsString::from_vec(erofs.read_link(&inode)?);
                return symlink(target, &path).with_context(place);
            }
            // Devices need root and mean nothing to the demo.
            _ => return Ok(()),
        }
        let time = Timespec { tv_sec: inode.mtime.seconds, tv_nsec: i64::from(inode.mtime.nanoseconds) };
        let times = Timestamps { last_access: time, last_modification: time };
        self.attributes.push((path, inode.mode, times));
        Ok(())
    }

    fn file(&mut self, erofs: &Image, path: &Path, inode: &Inode) -> anyhow::Result<()> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let number = self.files.len();
        let mut at = 0;
        while at < inode.size {
            let extent = erofs.map(inode, LogicalAddr::new(at))?;
            anyhow::ensure!(extent.len > 0, "the metadata has an empty extent");
            match extent.kind {
                ExtentKind::Device { device, pa } => {
                    let slot = device.slot().and_then(|slot| self.segments.get_mut(slot));
                    let end = pa.get().checked_add(extent.len).context("an extent ends beyond 2^64")?;
                    let segment = Segment { start: pa.get(), end, file: number, at };
                    slot.context("the metadata names a device that is not there")?.push(segment);
                }
                ExtentKind::Hole => {}
                ExtentKind::Meta { .. } | ExtentKind::Encoded(_) => {
                    anyhow::bail!("its data lies among the metadata or is compressed")
                }
            }
            at += extent.len;
        }
        file.set_len(inode.size)?;
        self.files.push(path.to_owned());
        self.open = Some((number, file));
        Ok(())
    }

    /// Decodes a blob from its beginning to its end and gives every file its part.
    fn pour(
        &mut self,
        layer: &Layer,
        blobs: &Path,
        mut segments: Segments,
        done: &dyn Fn(u64),
    ) -> anyhow::Result<()> {
        let blob = Blob::open(layer, blobs)?;
        for chunk in layer.table.chunks() {
            if segments.is_done() {
                break;
            }
            let (start, end) = (chunk.decoded.start(), chunk.decoded.end());
            let data = blob.decode(&chunk)?;
            for piece in segments.pass(start, end) {
                let range = usize::try_from(piece.start - start)?..usize::try_from(piece.end - start)?;
                self.write(piece.file, &data[range], piece.at)?;
            }
            done(end);
        }
        anyhow::ensure!(segments.is_done(), "{}: ends before the files in it", blob.path.display());
        Ok(())
    }

    fn write(&mut self, file: usize, data: &[u8], at: u64) -> anyhow::Result<()> {
        let written = match &self.open {
            Some((open, handle)) if *open == file => handle.write_all_at(data, at),
            _ => self.reopen(file).and_then(|handle| handle.write_all_at(data, at)),
        };
        written.with_context(|| format!("{}: cannot be written", self.files[file].display()))
    }

    fn reopen(&mut self, file: usize) -> io::Result<&File> {
        let handle = OpenOptions::new().write(true).open(&self.files[file])?;
        Ok(&self.open.insert((file, handle)).1)
    }

    fn finish(mut self) -> anyhow::Result<()> {
        self.open = None;
        // From the leaves up: a directory that cannot be written any more is left alone from then on.
        for (path, mode, times) in self.attributes.iter().rev() {
            let place = || format!("{}: its mode and time cannot be set", path.display());
            fs::set_permissions(path, fs::Permissions::from_mode(u32::from(*mode))).with_context(place)?;
            utimensat(CWD, path, times, AtFlags::empty()).with_context(place)?;
        }
        Ok(())
    }
}
