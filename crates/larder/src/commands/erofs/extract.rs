//! `larder erofs extract`: unpack an image, or a part of it.

use std::ffi::OsString;
use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use super::ImageArgs;
use crate::cli::Global;
use crate::erofs::extract::{Plan, extract};
use crate::errors::{Kind, told};
use crate::output;
use crate::output::bytes::human;
use crate::output::progress::Progress;

const EXAMPLES: &str = "\
Examples:
  larder erofs extract app.erofs out              everything, into a new directory
  larder erofs extract app.erofs etc /etc         one directory of it
  larder erofs extract --overwrite app.erofs out  replace what is there

Nothing is written outside of the directory, whatever names and links the image has. As root,
owners, modes, devices and attributes are restored; others get what they may have.";

/// Arguments of `larder erofs extract`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    image: ImageArgs,
    /// Where to: a directory, which is made if it does not exist
    dest: PathBuf,
    /// What to extract, from the image's root
    #[arg(default_value = "/")]
    path: OsString,
    /// Replace what exists; without it, what exists is left alone and reported
    #[arg(long)]
    overwrite: bool,
    /// Let everything belong to who extracts
    #[arg(long)]
    no_owner: bool,
    /// Let the umask apply to permissions
    #[arg(long)]
    no_permissions: bool,
    /// Leave extended attributes out
    #[arg(long)]
    no_xattrs: bool,
    /// Threads that decode and write [default: one a processor]
    #[arg(short, long, value_name = "N")]
    jobs: Option<NonZero<usize>>,
}

pub(super) fn run(args: &Args, global: &Global) -> anyhow::Result<ExitCode> {
    let image = args.image.open()?;
    let from = super::find(&image, &args.path, false)?;
    let plan = Plan {
        owners: rustix::process::geteuid().is_root() && !args.no_owner,
        permissions: !args.no_permissions,
        xattrs: !args.no_xattrs,
        overwrite: args.overwrite,
        jobs: super::jobs(args.jobs),
    };
    let progress = Progress::bytes("extracting", None);
    let done = extract(&image, &from, &args.dest, plan, &|bytes| progress.set(bytes))?;
    progress.clear();
    let (named, failures) = (done.failures.named(), done.failures.count());
    if global.json {
        output::json(&json!({
            "objects": done.objects,
            "bytes": done.bytes,
            "xattrs_skipped": done.xattrs_skipped,
            "failures": failures,
            "failed": named,
        }))?;
    } else {
        named.iter().for_each(output::note);
        if done.xattrs_skipped > 0 {
            output::note(format!("{} extended attributes cannot be had here", done.xattrs_skipped));
        }
        output::note(format!("{} objects, {} in files", done.objects, human(done.bytes)));
    }
    if failures == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    Err(told(
        Kind::Failed,
        format!("{}: {failures} things could not be extracted", args.dest.display()),
        "the rest is there; --overwrite replaces what exists, `larder erofs fsck` tells what is damaged",
    ))
}
