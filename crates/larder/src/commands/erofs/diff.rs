//! `larder erofs diff`: in what two images differ.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::cli::Global;
use crate::erofs::compare::{Change, Difference, Ignore, compare};
use crate::erofs::open::{LocalImage, Parts};
use crate::output;

const EXAMPLES: &str = "\
Examples:
  larder erofs diff old.erofs new.erofs
  larder erofs diff --ignore-times old.erofs new.erofs
  larder erofs diff --json old.erofs new.erofs --first-device old.blob --second-device new.blob

Lines begin with + (only in the second), - (only in the first) or M (in both, and in what they
differ). Files in the same place of devices with the same digest are the same, and are not read.
Status 0: no difference. Status 1: differences, or it failed.";

/// Arguments of `larder erofs diff`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The first image
    first: PathBuf,
    /// The second image
    second: PathBuf,
    /// A device of the first image; may be given several times
    #[arg(long, value_name = "FILE")]
    first_device: Vec<PathBuf>,
    /// A device of the second image; may be given several times
    #[arg(long, value_name = "FILE")]
    second_device: Vec<PathBuf>,
    /// Leave times of the last change out
    #[arg(long)]
    ignore_times: bool,
}

pub(super) fn run(args: &Args, global: &Global) -> anyhow::Result<ExitCode> {
    let open = |image: &PathBuf, devices: &[PathBuf]| {
        LocalImage::open(&Parts { image: image.clone(), devices: devices.to_vec(), offset: 0 })
    };
    let (first, second) = (open(&args.first, &args.first_device)?, open(&args.second, &args.second_device)?);
    let mut found = Vec::new();
    let mut count = 0_u64;
    compare(&first, &second, Ignore { times: args.ignore_times }, &mut |difference| {
        count += 1;
        if global.json {
            found.push(difference);
            return Ok(());
        }
        output::line(line(&difference))
    })?;
    if global.json {
        output::json(&found)?;
    }
    Ok(if count == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn line(difference: &Difference) -> String {
    let Difference { path, change, fields } = difference;
    let path = path.escape_debug();
    match change {
        Change::Added => format!("+ {path}"),
        Change::Removed => format!("- {path}"),
        Change::Changed => format!("M {path}: {}", fields.join(", ")),
    }
}
