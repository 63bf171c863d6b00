//! `larder erofs`: look into EROFS image files, check them, take them apart, merge them.

mod cat;
mod diff;
mod dump;
mod extract;
mod fsck;
mod ls;
mod merge;
mod stat;

use std::ffi::OsStr;
use std::num::NonZero;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use larder_erofs::Inode;

use crate::cli::Global;
use crate::commands::inside;
use crate::erofs::open::{LocalImage, Parts};

const EXAMPLES: &str = "\
Examples:
  larder erofs ls -l app.erofs /etc                  what is in a directory
  larder erofs extract app.erofs out                 unpack, with all processors
  larder erofs fsck app.erofs                        every fault there is
  larder erofs dump --extents app.erofs /bin/sh      where the bytes of a file lie
  larder erofs diff old.erofs new.erofs              what changed
  larder erofs merge all.erofs base.erofs app.erofs  one image of many layers

Called as mkfs.erofs, fsck.erofs, dump.erofs or erofsfuse, or with such a name as first argument,
larder takes the options of erofs-utils 1.9.";

/// Arguments of `larder erofs`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List files of an image
    Ls(ls::Args),
    /// Print files of an image
    Cat(cat::Args),
    /// Show all that an image says about its objects
    Stat(stat::Args),
    /// Unpack an image, or a part of it
    Extract(extract::Args),
    /// Check an image and name every fault
    Fsck(fsck::Args),
    /// Show the superblock, the devices, statistics, or where a file lies
    Dump(dump::Args),
    /// Tell in what two images differ
    Diff(diff::Args),
    /// Make one image of many layers
    Merge(merge::Args),
}

/// Runs `larder erofs`.
///
/// # Errors
///
/// When the image cannot be read, and what the command itself cannot do.
pub fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Ls(args) => ls::run(&args, global),
        Command::Cat(args) => cat::run(&args),
        Command::Stat(args) => stat::run(&args, global),
        Command::Extract(args) => extract::run(&args, global),
        Command::Fsck(args) => fsck::run(&args, global),
        Command::Dump(args) => dump::run(&args, global),
        Command::Diff(args) => diff::run(&args, global),
        Command::Merge(args) => merge::run(&args, global),
    }
}

/// The image that most of the commands work on.
#[derive(clap::Args, Clone, Debug)]
struct ImageArgs {
    /// The image: a file or a block device
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// A device of the image, in the order of its device table; may be given several times
    ///
    /// Without any, the devices are taken to follow the image in the same file.
    #[arg(long = "device", value_name = "FILE")]
    devices: Vec<PathBuf>,
    /// Where the image begins in its file, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    offset: u64,
}

impl ImageArgs {
    fn parts(&self) -> Parts {
        Parts { image: self.image.clone(), devices: self.devices.clone(), offset: self.offset }
    }

    fn open(&self) -> anyhow::Result<LocalImage> {
        LocalImage::open(&self.parts())
    }
}

/// The inode at `path`; links are followed, at its end too if so asked.
fn find(image: &LocalImage, path: &OsStr, follow_last: bool) -> anyhow::Result<Inode> {
    inside::walk(image.image(), path.as_bytes(), follow_last)
}

/// As many threads as there are processors, unless another number is asked for.
fn jobs(asked: Option<NonZero<usize>>) -> NonZero<usize> {
    asked.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZero::<usize>::MIN)
}
