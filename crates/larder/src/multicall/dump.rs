//! `dump.erofs`: the superblock, an inode, its extents or names or contents, statistics.

mod text;

use std::ffi::OsString;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use larder_erofs::{FileType, Inode, Nid};

use super::getopt::{Options, Takes};
use super::line::{Line, begin, end, misused, number_of, unsupported};
use super::{Say, Tool};
use crate::commands::inside;
use crate::erofs::open::{LocalImage, Parts};
use crate::erofs::statistics::Statistics;
use crate::output;

const OPTIONS: Options = Options(&[
    ("V", Takes::Nothing),
    ("version", Takes::Nothing),
    ("h", Takes::Nothing),
    ("help", Takes::Nothing),
    ("S", Takes::Nothing),
    ("e", Takes::Nothing),
    ("s", Takes::Nothing),
    ("blkid-udev", Takes::Nothing),
    ("device", Takes::Value),
    ("ls", Takes::Nothing),
    ("cat", Takes::Nothing),
    ("nid", Takes::Value),
    ("offset", Takes::Value),
    ("path", Takes::Value),
]);

const HELP: &str = "\
Usage: dump.erofs [OPTIONS] IMAGE
Dump EROFS layout from IMAGE.

General options:
 -V, --version   print the version number and exit
 -h, --help      display this help and exit

 -S              show statistic information of the image
 -e              show extent info (INODE required)
 -s              show information about superblock
 --blkid-udev    print block device attributes for easy import into the udev environment
 --device=X      specify an extra device to be used together
 --ls            show directory contents (INODE required)
 --cat           show file contents (INODE required)
 --nid=#         show the target inode info of nid #
 --offset=#      skip # bytes at the beginning of IMAGE
 --path=X        show the target inode info of path X
";
/// Bytes of contents written at once.
const STEP: usize = 1 << 20;

#[derive(Default)]
struct Asked {
    parts: Parts,
    superblock: bool,
    statistics: bool,
    extents: bool,
    udev: bool,
    list: bool,
    cat: bool,
    nid: Option<u64>,
    path: Option<OsString>,
}

pub(super) fn run(args: Vec<OsString>) -> anyhow::Result<ExitCode> {
    let line = match begin(Tool::Dump, &OPTIONS, HELP, args)? {
        ControlFlow::Continue(line) => line,
        ControlFlow::Break(status) => return Ok(status),
    };
    match asked(line) {
        Ok(asked) => {
            end(Say::default(), show(&asked).map(|()| ExitCode::SUCCESS), |error| status(error).into())
        }
        Err(wrong) => Ok(misused(Tool::Dump, wrong)),
    }
}

/// An error number, negated, as the byte that is left of it in a status.
fn status(error: &anyhow::Error) -> u8 {
    let number = error.chain().find_map(|cause| {
        let library = cause.downcast_ref::<larder_erofs::Error>().map(larder_erofs::Error::errno);
        library.or_else(|| cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error))
    });
    let number = u8::try_from(number.unwrap_or(libc::EIO)).unwrap_or(1);
    number.wrapping_neg()
}

fn asked(line: Line) -> Result<Asked, String> {
    let mut asked = Asked::default();
    asked.parts.image = line.image()?;
    for (name, value) in line.options {
        let value_number = || number_of(name, value.as_deref());
        match name {
            "s" => asked.superblock = true,
            "S" => asked.statistics = true,
            "e" => asked.extents = true,
            "blkid-udev" => asked.udev = true,
            "ls" => asked.list = true,
            "cat" => asked.cat = true,
            "device" => asked.parts.devices.extend(value.map(PathBuf::from)),
            "nid" => asked.nid = Some(value_number()?),
            "offset" => asked.parts.offset = value_number()?,
            "path" => asked.path = value,
            other => return Err(unsupported(other)),
        }
    }
    Ok(asked)
}

fn show(asked: &Asked) -> anyhow::Result<()> {
    let image = LocalImage::open(&asked.parts)?;
    if asked.udev {
        return output::write(text::udev(image.image()).as_bytes());
    }
    let has_inode = asked.nid.is_some() || asked.path.is_some();
    if !has_inode {
        for (name, wanted) in [("-e", asked.extents), ("--ls", asked.list), ("--cat", asked.cat)] {
            anyhow::ensure!(!wanted, "{name} needs an inode: --nid=# or --path=X");
        }
    }
    let nothing = !has_inode && !asked.statistics;
    if asked.superblock || nothing {
        output::write(text::superblock(image.image()).as_bytes())?;
    }
    if asked.statistics {
        output::write(text::statistics(&Statistics::gather(image.image())?).as_bytes())?;
    }
    if has_inode {
        inode(asked, &image)?;
    }
    Ok(())
}

fn inode(asked: &Asked, image: &LocalImage) -> anyhow::Result<()> {
    let inode = match (&asked.path, asked.nid) {
        (Some(path), _) => inside::walk(image.image(), path.as_bytes(), false)?,
        (None, nid) => image.image().inode(Nid::new(nid.unwrap_or_default()))?,
    };
    if asked.cat {
        return cat(image, &inode);
    }
    let path = match &asked.path {
        Some(path) => path.as_bytes().to_vec(),
        None => text::path_of(image.image(), inode.nid).unwrap_or_default(),
    };
    output::write(text::inode(image.image(), &path, &inode).as_bytes())?;
    if asked.list {
        output::write(&text::listing(image.image(), &inode)?)?;
    }
    if asked.extents {
        output::write(text::extents(image.image(), &path, &inode)?.as_bytes())?;
    }
    Ok(())
}

fn cat(image: &LocalImage, inode: &Inode) -> anyhow::Result<()> {
    anyhow::ensure!(inode.kind == FileType::Regular, "inode {} is no regular file", inode.nid);
    let mut buffer = Vec::new();
    let mut at = 0;
    while at < inode.size {
        buffer.resize(usize::try_from(inode.size - at).map_or(STEP, |left| left.min(STEP)), 0);
        image.read(inode, at, &mut buffer)?;
        output::write(&buffer)?;
        at += buffer.len() as u64;
    }
    Ok(())
}
