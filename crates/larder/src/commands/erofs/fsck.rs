//! `larder erofs fsck`: check an image and name every fault.

use std::num::NonZero;
use std::process::ExitCode;

use larder_erofs::check::{Options, Report, Severity, check};
use serde_json::json;

use super::ImageArgs;
use crate::cli::Global;
use crate::erofs::open::LocalImage;
use crate::errors::{Kind, told};
use crate::output;
use crate::output::bytes::human;
use crate::output::progress::Progress;

const EXAMPLES: &str = "\
Examples:
  larder erofs fsck app.erofs                     all of it, contents decoded
  larder erofs fsck --no-contents app.erofs       only the metadata, in a moment
  larder erofs fsck --json --device blob app.erofs

Checked are the superblock with its checksum, the device table, every directory (order, types, `.`
and `..`), link counts, extended attributes and the name filter, and that every byte of every file
is there and can be decoded. The format has no checksum of contents: what is decoded may still be
other than what was put in.
Status 0: sound, perhaps with warnings. Status 1: at least one error.";

/// Arguments of `larder erofs fsck`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    image: ImageArgs,
    /// Do not decode contents, only check where they lie
    #[arg(long)]
    no_contents: bool,
    /// Threads that read and decode [default: one a processor]
    #[arg(short, long, value_name = "N")]
    jobs: Option<NonZero<usize>>,
}

pub(super) fn run(args: &Args, global: &Global) -> anyhow::Result<ExitCode> {
    let (image, checksum) = LocalImage::open_unverified(&args.image.parts())?;
    let progress = Progress::bytes("checking", None);
    let told_bytes = |bytes| progress.set(bytes);
    let options = Options {
        jobs: super::jobs(args.jobs),
        contents: !args.no_contents,
        progress: Some(&told_bytes),
        ..Options::default()
    };
    let report = check(image.image(), image.devices(), checksum, &options);
    progress.clear();
    if global.json {
        show_json(&report)?
    } else {
        show(&report)?
    }
    if report.is_sound() {
        return Ok(ExitCode::SUCCESS);
    }
    let errors = report.faults.iter().filter(|fault| fault.severity() == Severity::Error).count();
    Err(told(
        Kind::Failed,
        format!("{}: {} errors", args.image.image.display(), errors as u64 + report.unnamed),
        "the image is damaged: fetch or build it again",
    ))
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}

fn show(report: &Report) -> anyhow::Result<()> {
    for fault in &report.faults {
        output::line(format!("{}: {fault}", word(fault.severity())))?;
    }
    if report.unnamed > 0 {
        output::line(format!("and {} more", report.unnamed))?;
    }
    output::note(format!(
        "{} inodes, {} directories, {} names, {} in files, {} stored",
        report.inodes,
        report.directories,
        report.entries,
        human(report.file_bytes),
        human(report.stored_bytes)
    ));
    Ok(())
}

fn show_json(report: &Report) -> anyhow::Result<()> {
    let faults = report.faults.iter().map(|fault| {
        json!({
            "severity": word(fault.severity()),
            "nid": fault.nid.map(larder_erofs::Nid::get),
            "path": fault.path.as_ref().map(|path| format!("/{}", String::from_utf8_lossy(path))),
            "fault": fault.kind.to_string(),
        })
    });
    output::json(&json!({
        "sound": report.is_sound(),
        "inodes": report.inodes,
        "directories": report.directories,
        "entries": report.entries,
        "file_bytes": report.file_bytes,
        "stored_bytes": report.stored_bytes,
        "faults": faults.collect::<Vec<_>>(),
        "unnamed_faults": report.unnamed,
    }))
}
