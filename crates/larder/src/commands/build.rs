//! `larder build`: an image from a directory or a tar archive.

use std::ffi::OsStr;
use std::num::NonZero;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use larder_erofs::writer::{ScanEntry, ScanOptions, TarOptions, Tree};
use larder_image::build::{
    BuildOptions, BuildReport, BuiltLayer, Compression, DedupSource, build, build_from_tar,
};
use larder_image::chunk::ChunkHash;
use larder_image::{Reference, Version};
use serde_json::json;

use crate::cli::Global;
use crate::erofs::archive::Archive;
use crate::errors::{Kind, told};
use crate::output;
use crate::output::bytes::human;
use crate::output::progress::Progress;
use crate::output::size::Size;

const EXAMPLES: &str = "\
Examples:
  larder build dir:/srv/app oci:/srv/images:app             an image called app in a layout directory
  larder build dir:/srv/app oci:/srv/images:app2 \\
      --dedup-against oci:/srv/images:app                   only what the other image does not have
  larder build dir:. oci:out --compression zstd:19          small, and slow to build
  larder build dir:. oci:out --own-blob 64M                 large files to be shared by images
  larder build dir:. oci:out --chunk-digest blake3          quickest to verify, for readers that have it
  larder build tar:rootfs.tar.gz oci:out                    an archive, never unpacked to disk
  docker export NAME | larder build tar:- oci:out           from standard input
  SOURCE_DATE_EPOCH=0 larder build dir:. oci:out            no file newer than 1970";

/// Arguments of `larder build`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// What to build from: dir:PATH, tar:FILE or tar:-; archives may be compressed with gzip, zstd or xz
    #[arg(value_parser = source)]
    source: Source,
    /// Where the image goes: oci:DIR[:TAG]; a new directory, or an OCI image layout. TAG is `latest` unless given
    dest: String,
    /// Threads that read, hash and compress [default: one a processor]; the result is the same with any number
    #[arg(short, long, value_name = "N")]
    jobs: Option<NonZero<usize>>,
    /// Bytes of file data that are fetched, checked and decoded together: a power of two from 4K to 4M [default: 64K]
    #[arg(long, value_name = "SIZE", value_parser = chunk_size)]
    chunk_size: Option<NonZero<u32>>,
    /// none, zstd or zstd:LEVEL (1 to 22; without LEVEL 3)
    #[arg(long, value_name = "HOW", default_value = "zstd", value_parser = compression)]
    compression: Compression,
    /// sha256, sha512 or blake3: what vouches for each chunk. Readers without blake3 fetch such layers whole
    #[arg(long, value_name = "HASH", default_value_t, value_parser = str::parse::<ChunkHash>)]
    chunk_digest: ChunkHash,
    /// Make every later modification time this one, in whole seconds since 1970
    #[arg(
        long,
        value_name = "SECONDS",
        env = "SOURCE_DATE_EPOCH",
        hide_env_values = true,
        allow_negative_numbers = true,
        value_parser = seconds
    )]
    timestamp: Option<i64>,
    /// Refer to the data of this image where it is the same; may be given several times
    #[arg(long, value_name = "IMAGE")]
    dedup_against: Vec<String>,
    /// Give each file of at least SIZE a blob of its own: once it is complete, a `fuse` mount of root's reads it at full
    /// speed (Linux 6.9), and all images with the same file share it. For 256 files, the largest, or the first of an
    /// archive; not for sparse ones. Smaller files are not deduplicated against their parts
    #[arg(long, value_name = "SIZE", value_parser = own_blob_size)]
    own_blob: Option<NonZero<u64>>,
}

/// What an image is built from.
#[derive(Clone, Debug)]
enum Source {
    Directory(PathBuf),
    /// A tar archive; standard input without a file.
    Tar(Option<PathBuf>),
}

/// Runs `larder build`.
///
/// # Errors
///
/// When the source cannot be read or the destination not be written; nothing is left under its final name then.
pub fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    let (dir, tag) = destination(&args.dest)?;
    if let Source::Directory(source) = &args.source {
        check_directory(source)?;
    }
    let progress = Progress::bytes("building", None);
    let told = |bytes| progress.set(bytes);
    let defaults = BuildOptions::default();
    let options = BuildOptions {
        chunk_bytes: args.chunk_size.unwrap_or(defaults.chunk_bytes),
        compression: args.compression,
        chunk_hash: args.chunk_digest,
        jobs: args.jobs.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(defaults.jobs),
        timestamp: args.timestamp,
        own_blob_bytes: args.own_blob,
        tag: tag.unwrap_or(defaults.tag.clone()),
        dedup_against: args
            .dedup_against
            .iter()
            .map(|image| dedup_source(image))
            .collect::<anyhow::Result<_>>()?,
        progress: Some(&told),
        ..defaults
    };
    let report = match &args.source {
        Source::Directory(source) => build(scan(source, &dir)?, &options, &dir)?,
        Source::Tar(file) => {
            let archive = open_archive(file.as_deref())?;
            let name = archive.name.clone();
            build_from_tar(archive.decode()?, &TarOptions::default(), &options, &dir).with_context(|| name)?
        }
    };
    progress.clear();
    show(&report, &dir, &options.tag, global)?;
    Ok(ExitCode::SUCCESS)
}

/// Opens an archive that is not empty.
fn open_archive(file: Option<&Path>) -> anyhow::Result<Archive> {
    let archive = Archive::open(file)?;
    if archive.empty {
        // It comes from a program that failed; an image of nothing would hide that.
        return Err(told(
            Kind::BadRequest,
            format!("{}: the archive is empty", archive.name),
            "see whether the program that writes it succeeds: even an archive without files has an end",
        ));
    }
    Ok(archive)
}

/// Reads the tree, without the layout that is built should it lie inside, and without what builds have beside it.
fn scan(source: &Path, out: &Path) -> anyhow::Result<Tree> {
    let inside = place_inside(source, out);
    let beside = out.parent().and_then(|place| {
        let place = if place.as_os_str().is_empty() { Path::new(".") } else { place };
        place_inside(source, place)
    });
    let mut keep = |entry: &ScanEntry<'_>| {
        let path = Path::new(OsStr::from_bytes(entry.path));
        let is_staging = || {
            beside.as_deref() == path.parent()
                && path.file_name().is_some_and(larder_image::build::is_staging)
        };
        inside.as_deref() != Some(path) && !is_staging()
    };
    let mut tree = Tree::new();
    tree.add_root_from(source, b"", &ScanOptions::default(), &mut keep)?;
    Ok(tree)
}

/// Where `out` lies below `source`, if it does.
fn place_inside(source: &Path, out: &Path) -> Option<PathBuf> {
    let source = source.canonicalize().ok()?;
    let out = out.canonicalize().ok()?;
    out.strip_prefix(source).ok().map(Path::to_owned)
}

fn show(report: &BuildReport, dir: &Path, tag: &str, global: &Global) -> anyhow::Result<()> {
    let layer = |built: &BuiltLayer| {
        json!({
            "digest": built.digest.as_ref(),
            "stored_bytes": built.stored_bytes,
            "decoded_bytes": built.decoded_bytes,
            "chunks": built.chunks,
        })
    };
    if global.json {
        return output::json(&json!({
            "image": format!("oci:{}:{tag}", dir.display()),
            "manifest": report.manifest_digest.as_ref(),
            "metadata": layer(&report.metadata),
            "data": report.data.as_ref().map(layer),
            "files": report.files.iter().map(layer).collect::<Vec<_>>(),
            "devices_shared": report.devices_shared,
            "inodes": report.inodes,
            "file_bytes": report.file_bytes,
            "deduplicated_bytes": report.deduplicated_bytes,
            "dictionary_bytes": report.dictionary_bytes,
        }));
    }
    let layers = [&report.metadata].into_iter().chain(&report.data).chain(&report.files);
    let stored = layers.map(|layer| layer.stored_bytes).sum();
    output::note(format!(
        "{} inodes, {} in files: {} stored in oci:{}:{tag}",
        report.inodes,
        human(report.file_bytes),
        human(stored),
        dir.display()
    ));
    output::line(&report.manifest_digest)
}

fn dedup_source(image: &str) -> anyhow::Result<DedupSource> {
    match image.parse()? {
        Reference::Layout { dir, version } => Ok(DedupSource { dir, version }),
        other => Err(told(
            Kind::BadRequest,
            format!("{other}: only an image in a layout directory can be referred to"),
            "name it as oci:DIR[:TAG]",
        )),
    }
}

/// Reads `dir:PATH`, `tar:FILE` or `tar:-`.
fn source(text: &str) -> Result<Source, String> {
    match text.split_once(':') {
        Some(("tar", "-")) => Ok(Source::Tar(None)),
        Some(("tar", file)) if !file.is_empty() => Ok(Source::Tar(Some(file.into()))),
        Some(("dir", path)) if !path.is_empty() => Ok(Source::Directory(path.into())),
        _ => Err("a source is dir:PATH, tar:FILE, or tar:- for standard input".to_owned()),
    }
}

fn destination(text: &str) -> anyhow::Result<(PathBuf, Option<String>)> {
    match text.parse()? {
        Reference::Layout { dir, version: Version::Tag(tag) } => Ok((dir, Some(tag))),
        Reference::Layout { dir, version: Version::Only } => Ok((dir, None)),
        other => Err(told(
            Kind::BadRequest,
            format!("{other}: an image cannot be built there"),
            "a destination is oci:DIR or oci:DIR:TAG",
        )),
    }
}

fn check_directory(source: &Path) -> anyhow::Result<()> {
    let found = std::fs::metadata(source)
        .with_context(|| format!("{}: the source cannot be read", source.display()))?;
    if found.is_dir() {
        return Ok(());
    }
    Err(told(
        Kind::BadRequest,
        format!("{}: the source is no directory", source.display()),
        "name a directory as dir:PATH, a tar archive as tar:FILE",
    ))
}

fn seconds(text: &str) -> Result<i64, String> {
    text.parse().map_err(|_| {
        "a time is whole seconds since 1970 (or SOURCE_DATE_EPOCH is set, and no number)".to_owned()
    })
}

fn chunk_size(text: &str) -> Result<NonZero<u32>, String> {
    let wrong = || "a chunk size is a power of two from 4K to 4M, such as 64K".to_owned();
    let bytes = text.parse::<Size>().ok().and_then(|size| u32::try_from(size.0).ok()).ok_or_else(wrong)?;
    let good = bytes.is_power_of_two() && (1 << 12..=1 << 22).contains(&bytes);
    NonZero::new(bytes).filter(|_| good).ok_or_else(wrong)
}

fn own_blob_size(text: &str) -> Result<NonZero<u64>, String> {
    let wrong = || "the size of a file with a blob of its own is 64K at least, such as 64M".to_owned();
    let bytes = text.parse::<Size>().map_err(|_| wrong())?.0;
    NonZero::new(bytes).filter(|bytes| bytes.get() >= 1 << 16).ok_or_else(wrong)
}

fn compression(text: &str) -> Result<Compression, String> {
    match text.split_once(':') {
        None if text == "none" => Ok(Compression::None),
        None if text == "zstd" => Ok(Compression::default()),
        Some(("zstd", level)) => match level.parse::<i32>() {
            Ok(level @ 1..=22) => Ok(Compression::Zstd(level)),
            _ => Err("a zstd level is a number from 1 to 22".to_owned()),
        },
        _ => Err("a compression is none, zstd or zstd:LEVEL".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_levels_are_read_or_refused_with_the_rule() {
        for (text, bytes) in [("64K", 65_536), ("64KiB", 65_536), ("4096", 4096), ("4M", 1 << 22)] {
            assert_eq!(chunk_size(text).map(NonZero::get), Ok(bytes));
        }
        for bad in ["", "K", "0", "5000", "2K", "8M", "99999999999", "-4K"] {
            chunk_size(bad).expect_err(bad);
        }
        assert_eq!(own_blob_size("64M").map(NonZero::get), Ok(64 << 20));
        for bad in ["", "0", "65535", "-1M"] {
            own_blob_size(bad).expect_err(bad);
        }
        for bad in ["", "gzip", "zstd:0", "zstd:23", "zstd:", "none:1"] {
            compression(bad).expect_err(bad);
        }
    }

    #[test]
    fn a_destination_is_a_layout() {
        assert_eq!(destination("oci:out").expect("a layout"), ("out".into(), None));
        assert_eq!(destination("oci:out:v1").expect("a layout"), ("out".into(), Some("v1".to_owned())));
        destination("localhost:5000/x").expect_err("a registry is no place to build in");
    }
}
