//! `cargo xtask test`.

use anyhow::{Context, bail};

use crate::{build, packages};

/// What to test.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Installs nothing; tests whose tools are missing are skipped and say so.
    #[arg(long)]
    no_install: bool,
    /// Goes to `cargo test` as it is: a package, a filter, `-- --nocapture`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    cargo: Vec<String>,
}

/// Installs what the tests need and runs them.
pub fn run(args: &Args) -> anyhow::Result<()> {
    if !args.no_install {
        packages::install()?;
    }
    let mut arguments = vec!["test", "--workspace", "--no-fail-fast"];
    arguments.extend(args.cargo.iter().map(String::as_str));
    cargo(&arguments)?;
    if args.cargo.is_empty() { with_fault_points() } else { Ok(()) }
}

/// What needs a build of its own: the fault points themselves, and a short campaign with a fixed seed.
fn with_fault_points() -> anyhow::Result<()> {
    let features = "--features=larder-faults/inject,xtask/torture";
    cargo(&["test", "--package", "larder-faults", "--package", "xtask", features])?;
    let features = "--features=larder-netfs/inject,larder-remote/inject";
    let layers = ["--package", "larder-netfs", "--package", "larder-remote", "--test", "fault_points"];
    cargo(&[&["test", features][..], &layers].concat())?;
    cargo(&["run", "--quiet", "--package", "xtask", "--", "torture", "--seconds", "15", "--seed", "1"])
}

fn cargo(arguments: &[&str]) -> anyhow::Result<()> {
    println!("cargo {}", arguments.join(" "));
    let status = build::cargo().args(arguments).status().context("cargo could not be started")?;
    if !status.success() {
        bail!("cargo {} failed with {status}", arguments.join(" "));
    }
    Ok(())
}
