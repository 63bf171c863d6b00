//! `cargo xtask uml`: the tests of the front ends inside real kernels, without root, KVM or hardware.
//!
//! User-Mode Linux is a kernel compiled to an ordinary program. For each version: build it from Debian's sources, or
//! take it from the cache; boot it with a disk for Larder's cache; run the test programs that cargo has built, and
//! `larder doctor`; print what came of it. With `--cuts` the power is cut instead, at random moments, again and again.

mod cuts;
mod guest;
mod initramfs;
mod kernel;
mod report;
mod suite;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;

use crate::packages;
use initramfs::Initramfs;
use kernel::Version;

/// Which kernels, and what to do in them.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Tests whose names contain this; all of the suite without it.
    filter: Option<String>,
    /// This kernel only; may be given several times.
    #[arg(long, value_enum, value_name = "VERSION")]
    kernel: Vec<Version>,
    /// Installs nothing.
    #[arg(long)]
    no_install: bool,
    /// Only builds the kernels that are not in the cache.
    #[arg(long)]
    build_only: bool,
    /// Builds the kernels again, from the newest packages.
    #[arg(long)]
    rebuild: bool,
    /// Seconds that one kernel may take for its suite.
    #[arg(long, default_value_t = 1200)]
    limit: u64,
    /// Cuts the power so many times in all, in place of the suite.
    #[arg(long, value_name = "N")]
    cuts: Option<u32>,
    /// Decides when the power is cut; a new one each time without it.
    #[arg(long, requires = "cuts")]
    seed: Option<u64>,
    /// Keeps the logs of the guests here; a temporary folder without it.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Runs the suite, or cuts the power.
pub fn run(args: &Args) -> anyhow::Result<()> {
    if !args.no_install {
        packages::install_for_kernels()?;
    }
    let versions = if args.kernel.is_empty() { Version::ALL.to_vec() } else { args.kernel.clone() };
    let kernels = versions
        .into_iter()
        .map(|version| kernel::get(version, args.rebuild))
        .collect::<anyhow::Result<Vec<_>>>()?;
    for kernel in &kernels {
        println!("kernel {}: {} ({})", kernel.version, kernel.program.display(), kernel.package);
    }
    if args.build_only {
        return Ok(());
    }
    let programs = suite::build()?;
    let out = match &args.out {
        Some(out) => std::path::absolute(out)?,
        None => tempfile::tempdir()?.keep(),
    };
    std::fs::create_dir_all(&out)?;
    let initramfs = Initramfs::make(&out, &programs.larder)?;
    let good = match args.cuts {
        Some(cuts) => cuts::run(&kernels, &initramfs, &programs, (cuts, args.seed), &out)?,
        None => {
            let limit = Duration::from_secs(args.limit);
            suite::run(&kernels, &initramfs, &programs, args.filter.as_deref(), limit, &out)?
        }
    };
    if !good {
        bail!("failed; the guests' logs are in {}", out.display());
    }
    if args.out.is_none() {
        std::fs::remove_dir_all(&out)?;
    }
    Ok(())
}
