//! `fsck.erofs`: checks an image, and extracts it.

use std::ffi::OsString;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use larder_erofs::check::{Options as CheckOptions, Report, Severity, check};
use larder_erofs::{Inode, Nid};

use super::getopt::{Options, Takes};
use super::line::{Line, begin, end, misused, number_of, unsupported};
use super::{Say, Tool};
use crate::commands::inside;
use crate::erofs::extract::{Plan, extract};
use crate::erofs::open::{LocalImage, Parts};

const OPTIONS: Options = Options(&[
    ("V", Takes::Nothing),
    ("version", Takes::Nothing),
    ("h", Takes::Nothing),
    ("help", Takes::Nothing),
    ("d", Takes::Value),
    ("p", Takes::Nothing),
    ("device", Takes::Value),
    ("extract", Takes::Maybe),
    ("offset", Takes::Value),
    ("nid", Takes::Value),
    ("path", Takes::Value),
    ("no-sbcrc", Takes::Nothing),
    ("xattr-inode-digest", Takes::Nothing),
    ("xattrs", Takes::Nothing),
    ("no-xattrs", Takes::Nothing),
    ("a", Takes::Nothing),
    ("A", Takes::Nothing),
    ("y", Takes::Nothing),
    ("force", Takes::Nothing),
    ("overwrite", Takes::Nothing),
    ("preserve", Takes::Nothing),
    ("preserve-owner", Takes::Nothing),
    ("preserve-perms", Takes::Nothing),
    ("no-preserve", Takes::Nothing),
    ("no-preserve-owner", Takes::Nothing),
    ("no-preserve-perms", Takes::Nothing),
]);

const HELP: &str = "\
Usage: fsck.erofs [OPTIONS] IMAGE
Check EROFS filesystem compatibility and integrity of IMAGE.

This version is capable of checking images that use any of the following
algorithms: lz4, lzma, deflate, zstd

General options:
 -V, --version          print the version number and exit
 -h, --help             display this help and exit

 -d<0-9>                set output verbosity; 0=quiet, 9=verbose (default=2)
 -p                     print total compression ratio of all files
                        (with -d3 or more)
 --device=X             specify an extra device to be used together
 --extract[=X]          check if all files are well encoded, optionally
                        extract to X
 --offset=#             skip # bytes at the beginning of IMAGE
 --nid=#                check or extract from the target inode of nid #
 --path=X               check or extract from the target inode of path X
 --no-sbcrc             bypass the superblock checksum verification
 --[no-]xattrs          whether to dump extended attributes (default off)

 -a, -A, -y             no-op, for compatibility with fsck of other filesystems

Extraction options (--extract=X is required):
 --force                allow extracting to root
 --overwrite            overwrite files that already exist
 --[no-]preserve        same as --[no-]preserve-owner --[no-]preserve-perms
 --[no-]preserve-owner  whether to preserve the ownership from the
                        filesystem (default for superuser), or to extract as
                        yourself (default for ordinary users)
 --[no-]preserve-perms  whether to preserve the exact permissions from the
                        filesystem without applying umask (default for
                        superuser), or to modify the permissions by applying
                        umask (default for ordinary users)
";

/// What was asked for.
struct Asked {
    say: Say,
    parts: Parts,
    ratio: bool,
    decode: bool,
    target: Option<PathBuf>,
    nid: Option<u64>,
    path: Option<OsString>,
    verify: bool,
    xattrs: bool,
    force: bool,
    overwrite: bool,
    owner: bool,
    permissions: bool,
}

pub(super) fn run(args: Vec<OsString>) -> anyhow::Result<ExitCode> {
    let line = match begin(Tool::Fsck, &OPTIONS, HELP, args)? {
        ControlFlow::Continue(line) => line,
        ControlFlow::Break(status) => return Ok(status),
    };
    let asked = match asked(line) {
        Ok(asked) => asked,
        Err(wrong) => return Ok(misused(Tool::Fsck, wrong)),
    };
    let done = work(&asked).map(|sound| if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    end(asked.say, done, |_| ExitCode::FAILURE)
}

fn asked(line: Line) -> Result<Asked, String> {
    let root = rustix::process::geteuid().is_root();
    let mut asked = Asked {
        say: Say::default(),
        parts: Parts { image: line.image()?, ..Parts::default() },
        ratio: false,
        decode: false,
        target: None,
        nid: None,
        path: None,
        verify: true,
        xattrs: false,
        force: false,
        overwrite: false,
        owner: root,
        permissions: root,
    };
    let mut extraction_only = None;
    for (name, value) in line.options {
        let value_number = || number_of(name, value.as_deref());
        if name.contains("preserve") || matches!(name, "force" | "overwrite") {
            extraction_only = Some(name);
        }
        match name {
            "d" => asked.say = Say::at(value_number()?)?,
            "p" => asked.ratio = true,
            "device" => asked.parts.devices.extend(value.map(PathBuf::from)),
            "extract" => {
                asked.decode = true;
                asked.target = value.map(PathBuf::from);
            }
            "offset" => asked.parts.offset = value_number()?,
            "nid" => asked.nid = Some(value_number()?),
            "path" => asked.path = value,
            "no-sbcrc" => asked.verify = false,
            "xattrs" => asked.xattrs = true,
            "no-xattrs" => asked.xattrs = false,
            "force" => asked.force = true,
            "overwrite" => asked.overwrite = true,
            "preserve" => (asked.owner, asked.permissions) = (true, true),
            "preserve-owner" => asked.owner = true,
            "preserve-perms" => asked.permissions = true,
            "no-preserve" => (asked.owner, asked.permissions) = (false, false),
            "no-preserve-owner" => asked.owner = false,
            "no-preserve-perms" => asked.permissions = false,
            "a" | "A" | "y" => {}
            other => return Err(unsupported(other)),
        }
    }
    if let (Some(name), None) = (extraction_only, &asked.target) {
        return Err(format!("--{name} must be used together with --extract=X"));
    }
    match (asked.target.as_deref(), asked.force) {
        (Some(target), _) if target.as_os_str().is_empty() => {
            return Err("empty value given for --extract=X".to_owned());
        }
        (Some(target), false) if target == Path::new("/") => {
            return Err("--extract=/ must be used together with --force".to_owned());
        }
        _ => {}
    }
    Ok(asked)
}

/// Checks, then extracts; returns whether nothing was wrong.
fn work(asked: &Asked) -> anyhow::Result<bool> {
    let (image, checksum) = LocalImage::open_unverified(&asked.parts)?;
    let checksum = checksum.filter(|_| asked.verify);
    let from = match (&asked.path, asked.nid) {
        (Some(path), _) => Some(inside::walk(image.image(), path.as_bytes(), false)?),
        (None, Some(nid)) => Some(image.image().inode(Nid::new(nid))?),
        (None, None) => None,
    };
    // What is extracted is decoded then.
    let options = CheckOptions {
        jobs: jobs(),
        contents: asked.decode && asked.target.is_none(),
        // From the root on it is the whole image, with what only that is checked for.
        from: from.map(|inode| inode.nid).filter(|nid| *nid != image.image().root()),
        ..CheckOptions::default()
    };
    let report = check(image.image(), image.devices(), checksum, &options);
    let mut good = tell(asked.say, &report);
    if let Some(target) = &asked.target {
        let root = image.image().inode(image.image().root())?;
        good &= extract_to(asked, &image, &from.unwrap_or(root), target)?;
    }
    if good {
        asked.say.remark("No errors found")?;
        if asked.ratio {
            asked.say.remark(ratio(&report))?;
        }
    }
    Ok(good)
}

fn tell(say: Say, report: &Report) -> bool {
    for fault in &report.faults {
        match fault.severity() {
            Severity::Error => say.error(fault),
            Severity::Warning => say.warning(fault),
        }
    }
    if report.unnamed > 0 {
        say.error(format!("and {} more", report.unnamed));
    }
    if !report.is_sound() {
        say.error("Found some filesystem corruption");
    }
    report.is_sound()
}

#[expect(clippy::cast_precision_loss, reason = "two decimals are shown")]
fn ratio(report: &Report) -> String {
    let percent = match report.file_bytes {
        0 => 100.0,
        bytes => report.stored_bytes as f64 * 100.0 / bytes as f64,
    };
    format!("Compression ratio: {percent:.2}(%)")
}

fn extract_to(asked: &Asked, image: &LocalImage, from: &Inode, target: &Path) -> anyhow::Result<bool> {
    let plan = Plan {
        owners: asked.owner,
        permissions: asked.permissions,
        xattrs: asked.xattrs,
        overwrite: asked.overwrite,
        jobs: jobs(),
    };
    let done = extract(image, from, target, plan, &|_| {})?;
    for failure in done.failures.named() {
        asked.say.error(format!("failed to extract {failure}"));
    }
    if done.xattrs_skipped > 0 {
        asked.say.warning(format!("{} extended attributes cannot be had here", done.xattrs_skipped));
    }
    Ok(done.failures.count() == 0)
}

fn jobs() -> std::num::NonZero<usize> {
    std::thread::available_parallelism().unwrap_or(std::num::NonZero::<usize>::MIN)
}
