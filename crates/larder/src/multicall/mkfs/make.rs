//! Makes the image that was asked for, from a directory, a tar archive or other images.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use larder_erofs::writer::{
    Attributes, DirectoryOptions, ImageSummary, LayerDevices, MergeOptions, Options, ScanEntry, ScanOptions,
    Summary, TarOptions, Tree, WriteSink, WrittenData, index_tar, write_data, write_image,
    write_image_from_dir, write_image_from_tar, write_merged,
};
use larder_erofs::{DeviceTag, Error};

use crate::erofs::open::Parts;
use crate::erofs::{archive as stream, merge};

use super::options::{Archive, Asked, Owner, Source};
use super::out_file::OutFile;

/// Makes it.
pub(super) fn make(asked: &Asked) -> anyhow::Result<ImageSummary> {
    let owner = asked.owner;
    let change = move |attributes| owned(owner, attributes);
    let tar = TarOptions {
        aufs: asked.aufs,
        strip_overlay: asked.strip_overlay,
        strip_xattrs: !asked.xattrs,
        attributes: Some(&change),
    };
    match (&asked.source, &asked.blob) {
        (Source::Directory(dir), Some(blob)) => with_blob(asked, scan(asked, dir)?, blob),
        // It would become a part of itself, were it there before everything has been looked at.
        (Source::Directory(dir), None) if place_inside(&asked.image, dir).is_some() => {
            let tree = scan(asked, dir)?;
            into_file(&asked.image, |out| Ok(write_image(tree, &asked.options, out)?))
        }
        (Source::Directory(dir), None) => {
            // Before anything is written over: most mistakes are in the path.
            fs::read_dir(dir).map_err(|source| Error::Scan { path: dir.clone(), source })?;
            let filter = |entry: &ScanEntry<'_>| !is_excluded(asked, entry);
            let from = DirectoryOptions {
                scan: scan_options(asked),
                filter: Some(&filter),
                attributes: Some(&change),
            };
            into_file(&asked.image, |out| Ok(write_image_from_dir(dir, &from, &asked.options, out)?))
        }
        (Source::Images(images), _) => merge(asked, images),
        (Source::Tar(archive), _) => from_tar(asked, archive, &tar),
    }
}

fn from_tar(asked: &Asked, archive: &Archive, tar: &TarOptions<'_>) -> anyhow::Result<ImageSummary> {
    let (reader, raw) = open(archive)?;
    let summary = if archive.index {
        let data = index_tar(reader, tar, &asked.options)?;
        into_file(&asked.image, |out| write_metadata(&data, out))
    } else {
        into_file(&asked.image, |out| Ok(write_image_from_tar(reader, tar, &asked.options, out)?))
    }?;
    if let Some(raw) = raw {
        raw.keep();
    }
    Ok(summary)
}

fn scan(asked: &Asked, dir: &Path) -> anyhow::Result<Tree> {
    let mut tree = Tree::new();
    let inside = place_inside(&asked.image, dir);
    let is_image = |entry: &ScanEntry<'_>| {
        inside.as_ref().is_some_and(|inside| inside.as_os_str().as_bytes() == entry.path)
    };
    let mut keep = |entry: &ScanEntry<'_>| !is_excluded(asked, entry) && !is_image(entry);
    tree.add_root_from(dir, b"", &scan_options(asked), &mut keep)?;
    let owner = asked.owner;
    tree.map_attributes(&mut |attributes| owned(owner, attributes));
    Ok(tree)
}

/// Where a file, which may not be there yet, lies in a directory, if it does.
fn place_inside(file: &Path, dir: &Path) -> Option<PathBuf> {
    let place = |file: &Path| {
        let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
        Some(parent.unwrap_or(Path::new(".")).canonicalize().ok()?.join(file.file_name()?))
    };
    let to = || {
        let parent = file.parent().unwrap_or(Path::new(""));
        fs::read_link(file).map(|to| parent.join(to)).ok()
    };
    let place = file.canonicalize().ok().or_else(|| place(&to().unwrap_or_else(|| file.to_owned())));
    place?.strip_prefix(dir.canonicalize().ok()?).ok().map(Path::to_owned)
}

fn scan_options(asked: &Asked) -> ScanOptions {
    ScanOptions { xattrs: asked.xattrs, ..ScanOptions::default() }
}

fn is_excluded(asked: &Asked, entry: &ScanEntry<'_>) -> bool {
    let is_it = |excluded: &Vec<u8>| excluded.strip_prefix(b"/").unwrap_or(excluded) == entry.path;
    asked.excluded.iter().any(is_it)
}

/// Merges images: into one that has them all as devices, whether it needs them or not, or into a copy.
fn merge(asked: &Asked, images: &[PathBuf]) -> anyhow::Result<ImageSummary> {
    let layers: Vec<Parts> =
        images.iter().map(|image| Parts { image: image.clone(), ..Parts::default() }).collect();
    let options = MergeOptions { oci_whiteouts: asked.aufs, strip_overlay: asked.strip_overlay };
    let mut tree = merge::tree(&layers, &options)?;
    let owner = asked.owner;
    tree.map_attributes(&mut |attributes| owned(owner, attributes));
    into_file(&asked.image, |out| {
        Ok(if asked.copy_data {
            write_image(tree, &asked.options, out)?
        } else {
            write_merged(tree, &asked.options, LayerDevices::All, out)?.image
        })
    })
}

/// Gives a file the owner that was asked for.
fn owned(owner: Owner, attributes: Attributes) -> Attributes {
    Attributes {
        uid: owner.uid.unwrap_or(attributes.uid).wrapping_add(owner.uid_offset),
        gid: owner.gid.unwrap_or(attributes.gid).wrapping_add(owner.gid_offset),
        ..attributes
    }
}

/// Opens an archive, or standard input, and decodes it on the way, perhaps into a file of its own too.
fn open(archive: &Archive) -> anyhow::Result<(Box<dyn Read + Send>, Option<OutFile>)> {
    let opened = stream::Archive::open(archive.file.as_deref())?;
    let (name, found) = (&opened.name, opened.codec);
    if let (Some(wanted), true) = (archive.decode, found != archive.decode) {
        anyhow::bail!("{name}: is not compressed with {}", wanted.name());
    }
    if let (Some(codec), true, None) = (found, archive.index, &archive.raw) {
        // The image refers to the archive's bytes as they are once decoded, and nobody would have those.
        anyhow::bail!(
            "{name}: is compressed with {}; an index needs the archive itself: --ungzip=FILE or --unxz=FILE keeps it",
            codec.name()
        );
    }
    let reader = opened.decode()?;
    let Some(raw) = &archive.raw else { return Ok((reader, None)) };
    let raw = OutFile::open(raw)?;
    Ok((Box::new(Tee { reader, copy: raw.file.try_clone()? }), Some(raw)))
}

/// Copies what is read.
struct Tee<R> {
    reader: R,
    copy: File,
}

impl<R: Read> Read for Tee<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.reader.read(buf)?;
        self.copy.write_all(&buf[..len])?;
        Ok(len)
    }
}

/// Writes data to a file of their own, in chunks, and the image that refers to it.
fn with_blob(asked: &Asked, tree: Tree, blob: &Path) -> anyhow::Result<ImageSummary> {
    let named = || format!("{}: cannot be written", blob.display());
    let mut blob = OutFile::open(blob)?;
    let sink = BufWriter::with_capacity(1 << 20, &mut blob.file);
    let options = Options {
        block_bits: asked.options.block_bits,
        chunk_bits: asked.options.chunk_bits,
        jobs: asked.options.jobs,
        ..Options::default()
    };
    let mut sink = WriteSink(sink);
    let mut data = write_data(tree, &options, &mut sink)?;
    sink.0.flush().with_context(named)?;
    drop(sink);
    data.shape(&asked.options);
    let summary = into_file(&asked.image, |out| write_metadata(&data, out))?;
    blob.keep();
    Ok(summary)
}

fn write_metadata(data: &WrittenData, out: &mut File) -> anyhow::Result<ImageSummary> {
    let mut buffered = BufWriter::with_capacity(1 << 20, out);
    let tags = vec![DeviceTag::EMPTY; data.devices().len()];
    let Summary { inodes, metadata_bytes, file_bytes, deduplicated_bytes, uuid, .. } =
        data.write_metadata(&tags, &mut buffered)?;
    buffered.flush()?;
    Ok(ImageSummary { inodes, bytes: metadata_bytes, metadata_bytes, file_bytes, deduplicated_bytes, uuid })
}

/// Has an image written to the file or block device at `path`; when that fails, no image is there: see [`OutFile`].
fn into_file(
    path: &Path,
    write: impl FnOnce(&mut File) -> anyhow::Result<ImageSummary>,
) -> anyhow::Result<ImageSummary> {
    let mut out = OutFile::open(path)?;
    let summary = write(&mut out.file)?;
    out.set_len(summary.bytes)?;
    out.keep();
    Ok(summary)
}
