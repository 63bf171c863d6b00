//! `cargo xtask torture`: random workloads with random faults, kills and restarts, against a model.
//!
//! Every decision (what is read, which fault strikes at which visit of which site, who is killed after which step) is
//! a pure function of the seed, the round and a step counter, so that a seed replays its decisions; schedules of
//! threads and processes may differ. The truth is a function of file and offset: every byte that a reader gets is
//! compared with it. After each round nothing may be left that was not there before: see [`violation`].
//!
//! The fault points of the libraries are switched on by a feature, so that this part of xtask is built apart:
//! [`launch`] does that.

#[cfg(feature = "torture")]
mod campaign;
#[cfg(feature = "torture")]
mod desk;
#[cfg(feature = "torture")]
mod dice;
#[cfg(not(feature = "torture"))]
mod launch;
#[cfg(feature = "torture")]
mod library;
#[cfg(feature = "torture")]
mod patience;
#[cfg(feature = "torture")]
mod plan;
#[cfg(feature = "torture")]
mod processes;
#[cfg(feature = "torture")]
mod report;
#[cfg(feature = "torture")]
mod tally;
#[cfg(feature = "torture")]
mod truth;
#[cfg(feature = "torture")]
mod violation;

use std::path::PathBuf;

#[cfg(feature = "torture")]
pub use processes::mapped;

/// What to torture, and how.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub how: How,
    /// Tortures these layers only.
    #[arg(long, value_enum, value_name = "LAYER")]
    pub only: Option<Layer>,
}

/// How to torture.
#[derive(Clone, Debug, clap::Args)]
pub struct How {
    /// Begins rounds for so long; the last one is finished.
    #[arg(long, default_value_t = 60)]
    pub seconds: u64,
    /// Decides everything; a new one each time without it.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Replays this round of the seed alone, over and over until the time is up.
    #[arg(long, value_name = "ROUND", requires = "seed")]
    pub replay: Option<u64>,
    /// Directory for images, caches and mounts; on ext4, xfs or btrfs for fanotify.
    #[arg(long, default_value = "/var/tmp")]
    pub scratch: PathBuf,
    /// Prints the report as JSON.
    #[arg(long)]
    pub json: bool,
    /// Tortures this binary, built with `--features inject`, instead of building one.
    #[arg(long, value_name = "PATH")]
    pub larder: Option<PathBuf>,
}

/// What is tortured.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, clap::ValueEnum)]
pub enum Layer {
    /// The libraries in this process: engine, cache and disk.
    Library,
    /// The real program: daemon, keeper, mounts.
    Processes,
}

/// Runs the campaign.
pub fn run(args: &Args) -> anyhow::Result<()> {
    #[cfg(feature = "torture")]
    return campaign::run(args);
    #[cfg(not(feature = "torture"))]
    return launch::run(args);
}

/// Runs the campaign with rounds of the real program alone.
pub fn chaos(how: How) -> anyhow::Result<()> {
    run(&Args { how, only: Some(Layer::Processes) })
}
