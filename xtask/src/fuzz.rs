//! `cargo xtask fuzz`: the fuzz targets, longer than the tests run them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};

use crate::build;

/// What to fuzz.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Runs these targets alone.
    targets: Vec<String>,
    /// Seconds for each target.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// What the inputs follow from, beside their number.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs the input with this number alone.
    #[arg(long)]
    input: Option<u64>,
    /// Writes that input to a file, or the valid ones into a directory (a corpus for `cargo fuzz`), and runs nothing.
    #[arg(long)]
    save: Option<PathBuf>,
}

/// Runs the targets one after the other, and fails when one of them did not withstand an input.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let packages = packages()?;
    let mut arguments = vec!["--quiet", "--bins"];
    arguments.extend(packages.iter().flat_map(|package| ["--package", package.as_str()]));
    let programs = build::executables(&arguments)?;
    let mut names: Vec<&str> = args.targets.iter().map(String::as_str).collect();
    if names.is_empty() {
        names = programs.names().collect();
    }
    ensure!(args.save.is_none() || names.len() == 1, "--save needs the name of one target");
    let mut failed = Vec::new();
    for name in names {
        if !status_of(programs.named(name)?, args)? {
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("see above: {}", failed.join(", "));
    }
    Ok(())
}

fn status_of(program: &Path, args: &Args) -> anyhow::Result<bool> {
    let mut command = Command::new(program);
    command.args(["--seconds", &args.seconds.to_string(), "--seed", &args.seed.to_string()]);
    if let Some(input) = args.input {
        command.args(["--input", &input.to_string()]);
    }
    if let Some(save) = &args.save {
        command.arg("--save").arg(save);
    }
    Ok(command.status().with_context(|| format!("{} could not be started", program.display()))?.success())
}

/// The packages of fuzz targets: `larder-x-fuzz` for each `crates/x/fuzz`.
fn packages() -> anyhow::Result<Vec<String>> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("crates");
    let mut packages = Vec::new();
    for entry in std::fs::read_dir(crates)? {
        let entry = entry?;
        if entry.path().join("fuzz/Cargo.toml").exists() {
            packages.push(format!("larder-{}-fuzz", entry.file_name().to_string_lossy()));
        }
    }
    packages.sort();
    Ok(packages)
}
