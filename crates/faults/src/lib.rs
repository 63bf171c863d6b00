//! Fault points: at a named [`Site`] a test lets a system call fail, be short, or be the last thing before death.
//!
//! A point stands beside the real call:
//!
//! ```
//! use larder_faults::{Site, check, length};
//! # use std::{fs::File, io, os::unix::fs::FileExt};
//! # fn write_some(file: &File, data: &[u8], at: u64) -> io::Result<usize> {
//! let data = &data[..length(Site::CachefilesPwrite, data.len())?];
//! file.write_at(data, at)
//! # }
//! # fn sync(file: &File) -> io::Result<()> {
//! check(Site::CachefilesFdatasync)?;
//! file.sync_data()
//! # }
//! ```
//!
//! Without the feature `inject` a point is an inline function that returns [`Verdict::Go`] and compiles to nothing. With
//! it, an installed [`Plan`] decides. Which fault strikes at the n-th visit of a site is a pure function of the plan's
//! seed, the site and n: no schedule of threads changes it, and the same seed strikes the same visits again. Counters
//! lie in a file if the plan names one ([`State`]), so that they outlive a process that a fault killed.
//!
//! A crate that has points forwards a feature `inject` of its own to this one. Reading the environment variable
//! [`ENV`] is left to the program, which hands its text to [`install_text`]; in a build without `inject` that is
//! refused by name.

#[cfg(feature = "inject")]
mod active;
#[cfg(feature = "inject")]
mod counts;
mod error;
#[cfg(feature = "inject")]
mod plan;
mod point;
mod site;
#[cfg(feature = "inject")]
mod state;
#[cfg(feature = "inject")]
mod sys;
mod verdict;

#[cfg(feature = "inject")]
pub use active::{clear, counts, install};
#[cfg(feature = "inject")]
pub use counts::{Count, Counts};
pub use error::Error;
#[cfg(feature = "inject")]
pub use plan::{Kind, Plan};
pub use point::{check, install_text, length, point};
pub use site::{Power, Site};
#[cfg(feature = "inject")]
pub use state::State;
pub use verdict::{Share, Verdict};

/// The environment variable from which the program `larder` takes a plan. Its text is described at [`install_text`].
pub const ENV: &str = "LARDER_FAULTS";
