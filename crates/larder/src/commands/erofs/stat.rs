//! `larder erofs stat`: all that an image says about its objects.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::process::ExitCode;

use larder_erofs::{FileType, Inode};
use serde::Serialize;

use super::ImageArgs;
use crate::cli::Global;
use crate::erofs::describe::{self, Object};
use crate::erofs::open::LocalImage;
use crate::erofs::statistics::stored_bytes;
use crate::output;

const EXAMPLES: &str = "\
Examples:
  larder erofs stat app.erofs /bin/sh
  larder erofs stat --json app.erofs / /etc";

/// Arguments of `larder erofs stat`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    image: ImageArgs,
    /// The objects, from the image's root; a link at the end is shown itself
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
}

/// What is shown beside the usual.
#[derive(Serialize)]
struct Stat {
    #[serde(flatten)]
    object: Object,
    /// Bytes that the contents take.
    stored_bytes: u64,
    /// Size of the inode itself.
    inode_bytes: u32,
    /// Extended attributes with their values; bytes that are not printable as `\xNN`.
    xattrs: Vec<(String, String)>,
}

pub(super) fn run(args: &Args, global: &Global) -> anyhow::Result<ExitCode> {
    let image = args.image.open()?;
    let mut all = Vec::new();
    for path in &args.paths {
        let inode = super::find(&image, path, false)?;
        let stat = stat(&image, path.as_bytes(), &inode)?;
        if global.json {
            all.push(stat);
        } else {
            output::write(text(&stat, &inode).as_bytes())?;
        }
    }
    if global.json {
        output::json(&all)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn stat(image: &LocalImage, path: &[u8], inode: &Inode) -> anyhow::Result<Stat> {
    let xattrs = image.image().xattrs(inode)?;
    let printable = |bytes: &[u8]| bytes.escape_ascii().to_string();
    Ok(Stat {
        object: Object::new(image.image(), path, inode)?,
        stored_bytes: stored_bytes(image.image(), inode),
        inode_bytes: if inode.extended { 64 } else { 32 },
        xattrs: xattrs.iter().map(|xattr| (printable(&xattr.name), printable(&xattr.value))).collect(),
    })
}

fn text(stat: &Stat, inode: &Inode) -> String {
    let Object { path, nid, links, uid, gid, size_bytes, layout, device, target, .. } = &stat.object;
    let shown = path.escape_debug().to_string();
    let target = target.as_ref().map_or_else(String::new, |target| format!(" -> {}", target.escape_debug()));
    let mut lines = vec![
        format!("Path:    {shown}{target}"),
        format!("Type:    {}, {layout}, inode of {} bytes", inode.kind, stat.inode_bytes),
        format!("Nid:     {nid}"),
        format!("Size:    {size_bytes} bytes, {} stored", stat.stored_bytes),
        format!("Mode:    {:04o} {}", inode.mode, describe::mode(inode)),
        format!("Owner:   {uid}:{gid}"),
        format!("Links:   {links}"),
        format!("Changed: {}", describe::time_exact(inode.mtime)),
    ];
    if let Some([major, minor]) = device {
        lines.push(format!("Device:  {major}, {minor}"));
    }
    if inode.kind != FileType::Symlink || !stat.xattrs.is_empty() {
        lines.extend(stat.xattrs.iter().map(|(name, value)| format!("Xattr:   {name} = {value}")));
    }
    lines.push(String::new());
    lines.join("\n")
}
