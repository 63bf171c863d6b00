//! Builds the program and this one with fault points, and runs that one.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use super::Args;
use crate::build;

/// Builds both, becomes the new xtask.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let features = "--features=larder/inject,xtask/torture";
    let built = build::executables(&["--package", "xtask", "--package", "larder", features])?;
    let mut command = Command::new(built.named("xtask")?);
    command.args(std::env::args_os().skip(1));
    if args.how.larder.is_none() {
        command.arg("--larder").arg(built.named("larder")?);
    }
    Err(command.exec().into())
}
