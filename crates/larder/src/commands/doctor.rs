//! `larder doctor`: which front ends work on this host, and why the others do not.

use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use crate::cli::Global;
use crate::output;
use crate::output::table::Rows;

const EXAMPLES: &str = "\
Examples:
  larder doctor           what works here, and what is missing for the rest
  larder doctor --json    the same for programs

Status 1: no front end works.";

/// Arguments of `larder doctor`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {}

/// What was found out about this host.
#[derive(Debug, Serialize)]
struct Findings {
    kernel: String,
    uid: u32,
    cache: String,
    cache_filesystem: String,
    dev_fuse: bool,
    fusermount: Option<String>,
    frontends: Vec<Finding>,
}

/// What was found out about one front end.
#[derive(Debug, Serialize)]
struct Finding {
    frontend: String,
    works: bool,
    reason: Option<String>,
    hint: Option<String>,
}

/// Runs `larder doctor`.
///
/// # Errors
///
/// When the cache directory cannot be made; status 1 without an error when no front end works.
pub fn run(_args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    let paths = global.paths()?;
    paths.create()?;
    let findings = examine(&paths.cache());
    if global.json {
        output::json(&findings)?;
    } else {
        print(&findings)?;
    }
    let works = findings.frontends.iter().any(|finding| finding.works);
    Ok(if works { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn examine(cache: &Path) -> Findings {
    let frontends = larder_mount::probe(cache).into_iter().map(|probe| {
        let (reason, hint) = match &probe.outcome {
            Ok(()) => (None, None),
            Err(unavailable) => (Some(unavailable.reason.clone()), Some(unavailable.hint.clone())),
        };
        Finding { frontend: probe.kind.to_string(), works: probe.outcome.is_ok(), reason, hint }
    });
    let fusermount = std::env::var_os("PATH").and_then(|path| {
        let found =
            std::env::split_paths(&path).map(|dir| dir.join("fusermount3")).find(|program| program.is_file());
        found.map(|program| program.display().to_string())
    });
    Findings {
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        uid: rustix::process::getuid().as_raw(),
        cache: cache.display().to_string(),
        cache_filesystem: filesystem(cache),
        dev_fuse: Path::new("/dev/fuse").exists(),
        fusermount,
        frontends: frontends.collect(),
    }
}

/// The kernel's name of the file system under `path`, by the magic number of statfs(2).
fn filesystem(path: &Path) -> String {
    let Ok(found) = rustix::fs::statfs(path) else { return "unknown".to_owned() };
    let name = match u32::try_from(found.f_type & 0xffff_ffff).unwrap_or_default() {
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x0102_1994 => "tmpfs",
        0x794c_7630 => "overlay",
        0x6969 => "nfs",
        0x6573_5546 => "fuse",
        0x2fc1_2fc1 => "zfs",
        0xf2f5_2010 => "f2fs",
        other => return format!("{other:#x}"),
    };
    name.to_owned()
}

fn print(findings: &Findings) -> anyhow::Result<()> {
    let yes = |good: bool| if good { "yes" } else { "no" };
    output::line(format!("kernel        {}", findings.kernel))?;
    output::line(format!("user          {}", findings.uid))?;
    output::line(format!("cache         {} ({})", findings.cache, findings.cache_filesystem))?;
    output::line(format!("/dev/fuse     {}", yes(findings.dev_fuse)))?;
    output::line(format!("fusermount3   {}\n", findings.fusermount.as_deref().unwrap_or("no")))?;
    let mut rows = Rows::new(&["FRONT END", "WORKS", "WHY NOT", "WHAT TO DO"]);
    for finding in &findings.frontends {
        rows.push([
            finding.frontend.as_str(),
            yes(finding.works),
            finding.reason.as_deref().unwrap_or_default(),
            finding.hint.as_deref().unwrap_or_default(),
        ]);
    }
    rows.print()
}
