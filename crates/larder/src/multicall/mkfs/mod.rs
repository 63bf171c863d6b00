//! `mkfs.erofs`: an image from a directory.

mod options;

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::process::ExitCode;

use anyhow::Context as _;
use larder_erofs::writer::{Attributes, ImageSummary, ScanEntry, ScanOptions, Tree, write_image};

use super::getopt::Parsed;
use super::{Tool, parse, version};
use crate::erofs::describe;
use crate::output;
use options::{Asked, OPTIONS, Owner, asked};

const HELP: &str = "\
Usage: mkfs.erofs [OPTIONS] FILE SOURCE
Generate EROFS image (FILE) from the directory SOURCE.

General options:
 -V, --version         print the version number and exit
 -h, --help            display this help and exit

 -b#                   set block size to # (default=4096)
 -d<0-9>               set output verbosity; 0=quiet, 9=verbose (default=2)
 -x#                   set xattr tolerance to # (< 0, disable xattrs; default 2)
 -zX[,level=Y][:...]   X=compressor: lz4, lz4hc, lzma, deflate, libdeflate, zstd
 -C#                   specify the size of compress physical cluster in bytes
 -EX[,...]             X=extended options: noinline_data, nosbcrc, legacy-compress,
                       force-inode-compact, force-inode-extended, ztailpacking,
                       fragments, all-fragments, dedupe, 48bit
 -L volume-label       set the volume label (maximum 15 bytes)
 -T#                   specify a fixed UNIX timestamp # as build time
    --all-time         the timestamp is also applied to all files (default)
    --mkfs-time        the timestamp is applied as build time only
 -UX                   use a given filesystem UUID, clear, or random
 --all-root            make all files owned by root
 --chunksize=#         generate chunk-based files with #-byte chunks
 --exclude-path=X      avoid including file X (X = exact literal path)
 --force-uid=#         set all file uids to # (# = UID)
 --force-gid=#         set all file gids to # (# = GID)
 --uid-offset=#        add offset # to all file uids
 --gid-offset=#        add offset # to all file gids
 --ignore-mtime        use build time instead of strict per-file modification time
 --max-extent-bytes=#  set maximum decompressed extent size # in bytes
 --preserve-mtime      keep per-file modification time strictly
 --quiet               do not write anything to standard output
 --workers=#           set the number of worker threads to #
";

pub(super) fn run(args: Vec<OsString>) -> anyhow::Result<ExitCode> {
    let Ok(parsed) = parse(Tool::Mkfs, &OPTIONS, args) else { return Ok(ExitCode::FAILURE) };
    for item in &parsed {
        match item {
            Parsed::Option("h" | "help", _) => {
                output::write(HELP.as_bytes())?;
                return Ok(ExitCode::SUCCESS);
            }
            Parsed::Option("V" | "version", _) => {
                output::line(version(Tool::Mkfs))?;
                return Ok(ExitCode::SUCCESS);
            }
            _ => {}
        }
    }
    let asked = match asked(parsed, std::env::var_os("SOURCE_DATE_EPOCH").as_deref()) {
        Ok(asked) => asked,
        Err(wrong) => {
            super::Say::default().error(wrong);
            super::say::to_stderr("Try 'mkfs.erofs --help' for more information.");
            return Ok(ExitCode::FAILURE);
        }
    };
    if !asked.quiet {
        output::line(version(Tool::Mkfs))?;
    }
    match make(&asked).and_then(|summary| if asked.quiet { Ok(()) } else { tell(&asked, &summary) }) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) if error.is::<output::StdoutClosed>() => Err(error),
        Err(error) => {
            asked.say.failure(&error);
            Ok(ExitCode::FAILURE)
        }
    }
}

fn make(asked: &Asked) -> anyhow::Result<ImageSummary> {
    let mut tree = Tree::new();
    let scan = ScanOptions { xattrs: asked.xattrs, ..ScanOptions::default() };
    let excluded = |path: &[u8]| {
        asked.excluded.iter().any(|excluded| excluded.strip_prefix(b"/").unwrap_or(excluded) == path)
    };
    tree.add_root_from(&asked.source, b"", &scan, &mut |entry: &ScanEntry<'_>| !excluded(entry.path))?;
    let owner = asked.owner;
    tree.map_attributes(&mut |attributes| owned(owner, attributes));
    let named = || format!("{}: cannot be written", asked.image.display());
    // As mkfs.erofs: what is there is written over. A block device keeps its length.
    let mut out =
        OpenOptions::new().write(true).create(true).truncate(false).open(&asked.image).with_context(named)?;
    let is_file = out.metadata().with_context(named)?.is_file();
    if is_file {
        out.set_len(0).with_context(named)?;
    }
    let summary = write_image(tree, &asked.options, &mut out)?;
    if is_file {
        out.set_len(summary.bytes).with_context(named)?;
    }
    Ok(summary)
}

fn owned(owner: Owner, attributes: Attributes) -> Attributes {
    Attributes {
        uid: owner.uid.unwrap_or(attributes.uid).wrapping_add(owner.uid_offset),
        gid: owner.gid.unwrap_or(attributes.gid).wrapping_add(owner.gid_offset),
        ..attributes
    }
}

fn tell(asked: &Asked, summary: &ImageSummary) -> anyhow::Result<()> {
    let block = 1_u64 << asked.options.block_bits;
    output::line(format!(
        "Build completed.\n\n------\n\
         Filesystem UUID: {}\n\
         Filesystem total blocks: {} (of {block}-byte blocks)\n\
         Filesystem total inodes: {}\n\
         Filesystem total metadata blocks: {}\n\
         Filesystem total deduplicated bytes (of source files): {}",
        describe::uuid(&summary.uuid),
        summary.bytes.div_ceil(block),
        summary.inodes,
        summary.metadata_bytes.div_ceil(block),
        summary.deduplicated_bytes
    ))
}
