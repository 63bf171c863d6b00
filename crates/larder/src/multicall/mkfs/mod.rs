//! `mkfs.erofs`: an image from a directory, a tar archive or other images.

mod make;
mod options;
mod out_file;

use std::ffi::OsString;
use std::ops::ControlFlow;
use std::process::ExitCode;

use larder_erofs::writer::ImageSummary;

use super::line::{begin, end, misused};
use super::{Tool, version};
use crate::erofs::describe;
use crate::output;
use make::make;
use options::{Asked, OPTIONS, asked};

const HELP: &str = "\
Usage: mkfs.erofs [OPTIONS] FILE SOURCE(s)
Generate EROFS image (FILE) from SOURCE(s): a directory; with --tar an archive (default: standard input);
or EROFS images, the lowest first, which become the devices of the result.

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
 -m#[:X]              put metadata into a metabox (# = size of its physical
                       clusters; X = one of the compressors of -z)
 -L volume-label       set the volume label (maximum 15 bytes)
 -T#                   specify a fixed UNIX timestamp # as build time
    --all-time         the timestamp is also applied to all files (default)
    --mkfs-time        the timestamp is applied as build time only
 -UX                   use a given filesystem UUID, clear, or random
 --all-root            make all files owned by root
 --aufs                replace aufs special files with overlayfs metadata
 --blobdev=X           specify an extra device X to store chunked data
 --chunksize=#         generate chunk-based files with #-byte chunks
 --clean=data          full clean build (default for directories and archives);
                       of images: copy their data, which is not the default
 --exclude-path=X      avoid including file X (X = exact literal path)
 --force-uid=#         set all file uids to # (# = UID)
 --force-gid=#         set all file gids to # (# = GID)
 --uid-offset=#        add offset # to all file uids
 --gid-offset=#        add offset # to all file gids
 --ignore-mtime        use build time instead of strict per-file modification time
 --max-extent-bytes=#  set maximum decompressed extent size # in bytes
 --ovlfs-strip=<0,1>   strip overlayfs metadata in the target image (e.g. whiteouts)
 --preserve-mtime      keep per-file modification time strictly
 --quiet               do not write anything to standard output
 --sort=none           store data in the order of the archive (default)
 --tar=X               generate a full or index-only image from a tarball
                       (X = f|i; f=full mode, i=index mode); full mode decodes
                       gzip, zstd and xz without being asked
 --ungzip[=X]          filter the tarball stream through gzip
                       (and optionally dump the raw stream to X together)
 --unxz[=X]            filter the tarball stream through xz
                       (and optionally dump the raw stream to X together)
 --workers=#           set the number of worker threads to #
";

pub(super) fn run(args: Vec<OsString>) -> anyhow::Result<ExitCode> {
    let line = match begin(Tool::Mkfs, &OPTIONS, HELP, args)? {
        ControlFlow::Continue(line) => line,
        ControlFlow::Break(status) => return Ok(status),
    };
    let asked = match asked(line, std::env::var_os("SOURCE_DATE_EPOCH").as_deref()) {
        Ok(asked) => asked,
        Err(wrong) => return Ok(misused(Tool::Mkfs, wrong)),
    };
    if !asked.quiet {
        output::line(version(Tool::Mkfs))?;
    }
    asked.warn();
    let done = make(&asked).and_then(|summary| if asked.quiet { Ok(()) } else { tell(&asked, &summary) });
    end(asked.say, done.map(|()| ExitCode::SUCCESS), |_| ExitCode::FAILURE)
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
