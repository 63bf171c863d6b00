//! What developers run: tests with their set-up, benchmarks.
//!
//! `cargo xtask test` installs what the tests need and runs every one of them; `cargo xtask fuzz` runs the fuzz targets
//! for longer; `cargo xtask torture` runs random
//! workloads with random faults, kills and restarts against a model, and `cargo xtask chaos` its rounds of the real
//! program alone; `cargo xtask uml` runs the front ends' tests inside
//! real kernels; `cargo xtask bench` measures Larder against a peer
//! in the same run and prints ratios.

mod bench;
mod build;
mod fuzz;
mod packages;
mod test;
mod torture;
mod uml;

use clap::{Parser, Subcommand};

/// Set-up, tests and benchmarks of Larder.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Installs what the tests need (as root, by apt-get) and runs all of them.
    Test(test::Args),
    /// Gives mutated inputs to the parsers, for longer than the tests do.
    Fuzz(fuzz::Args),
    /// Tortures Larder: random workloads with random faults, kills and restarts, against a model.
    Torture(torture::Args),
    /// Tortures the real program alone: kills, upgrades, a full disk, short memory, a registry that misbehaves,
    /// trees whose files are overwritten.
    Chaos(torture::How),
    /// Runs the front ends' tests inside real kernels (User-Mode Linux), or cuts their power.
    Uml(uml::Args),
    /// A reader of `torture`: what it reads comes through page faults.
    #[cfg(feature = "torture")]
    #[command(hide = true)]
    ReadMapped(torture::mapped::Args),
    /// Measures Larder against a peer in the same run and prints ratios.
    Bench(bench::Args),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().task {
        Task::Test(args) => test::run(&args),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Torture(args) => torture::run(&args),
        Task::Chaos(how) => torture::chaos(how),
        #[cfg(feature = "torture")]
        Task::ReadMapped(args) => torture::mapped::main(&args),
        Task::Uml(args) => uml::run(&args),
        Task::Bench(args) => bench::run(&args),
    }
}
