//! `larder erofs ls`: list files of an image.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::process::ExitCode;

use larder_erofs::{FileType, Inode};

use super::ImageArgs;
use crate::cli::Global;
use crate::commands::ls::long;
use crate::erofs::describe::Object;
use crate::erofs::open::LocalImage;
use crate::output;

const EXAMPLES: &str = "\
Examples:
  larder erofs ls app.erofs                  names in the root directory
  larder erofs ls -l app.erofs /bin          with mode, owner, size and time
  larder erofs ls -R --json app.erofs        everything, for programs";

/// Levels of directories, at most.
const DEPTH_MAX: usize = 4096;
/// Names held back until they are written together.
const TEXT_BYTES: usize = 64 << 10;

/// Arguments of `larder erofs ls`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    image: ImageArgs,
    /// A file or directory, from the image's root
    #[arg(default_value = "/")]
    path: OsString,
    /// Show mode, links, owner, group, size and time
    #[arg(short, long)]
    long: bool,
    /// List what lies below too, by path
    #[arg(short = 'R', long)]
    recursive: bool,
}

pub(super) fn run(args: &Args, global: &Global) -> anyhow::Result<ExitCode> {
    let image = args.image.open()?;
    // As ls(1): a link to a directory is looked into, unless its own figures are wanted.
    let inode = super::find(&image, &args.path, !args.long)?;
    let mut lines = Lines { image: &image, args, json: global.json, text: Vec::new(), objects: Vec::new() };
    if inode.kind == FileType::Directory {
        lines.directory(&inode)?;
    } else {
        lines.add(args.path.as_bytes(), &inode)?;
    }
    lines.finish()?;
    Ok(ExitCode::SUCCESS)
}

struct Lines<'a> {
    image: &'a LocalImage,
    args: &'a Args,
    json: bool,
    text: Vec<u8>,
    objects: Vec<Object>,
}

impl Lines<'_> {
    /// Adds what is in `top`, and below it if asked for.
    fn directory(&mut self, top: &Inode) -> anyhow::Result<()> {
        let image: &LocalImage = self.image;
        // A directory that is reached twice is a circle, or a doubling without end.
        let mut entered = HashSet::from([top.nid]);
        let mut stack = vec![(image.image().read_dir(top)?, Vec::new())];
        while let Some((listing, path)) = stack.last_mut() {
            let Some(entry) = listing.next().transpose()? else {
                stack.pop();
                continue;
            };
            if entry.name == b"." || entry.name == b".." {
                continue;
            }
            let path = [path.as_slice(), &entry.name].concat();
            let inode = image.image().inode(entry.nid)?;
            self.add(&path, &inode)?;
            if self.args.recursive && inode.kind == FileType::Directory {
                let shown = String::from_utf8_lossy(&path);
                anyhow::ensure!(entered.insert(inode.nid), "{shown}: the directory is reached twice");
                anyhow::ensure!(stack.len() < DEPTH_MAX, "{shown}: lies too deep");
                let below = image.image().read_dir(&inode)?;
                stack.push((below, [path.as_slice(), b"/"].concat()));
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &[u8], inode: &Inode) -> anyhow::Result<()> {
        if self.json {
            self.objects.push(Object::new(self.image.image(), path, inode)?);
            return Ok(());
        }
        if self.args.long {
            self.text.extend_from_slice(long(inode).as_bytes());
        }
        self.text.extend_from_slice(path);
        if self.args.long && inode.kind == FileType::Symlink {
            self.text.extend_from_slice(b" -> ");
            self.text.extend_from_slice(&self.image.image().read_link(inode)?);
        }
        self.text.push(b'\n');
        if self.text.len() >= TEXT_BYTES {
            output::write(&self.text)?;
            self.text.clear();
        }
        Ok(())
    }

    fn finish(self) -> anyhow::Result<()> {
        if self.json { output::json(&self.objects) } else { output::write(&self.text) }
    }
}
