//! The checker: goes through everything that an image says and names every fault, not only the first.
//!
//! One thread walks the tree, the others go through attributes and contents. Each pcluster is decoded once, however
//! many files refer to it.

mod contents;
mod fault;
mod names;
mod pool;
mod seen;
mod tree;
mod whole;

use std::fmt;
use std::num::NonZero;
use std::sync::Arc;

use crate::{Error, Image, MetaSource, Nid};
use fault::Faults;
pub use fault::{Fault, FaultKind, Severity};

/// How an image is to be checked.
pub struct Options<'a> {
    /// How many threads read and decode.
    pub jobs: NonZero<usize>,
    /// Whether encoded contents are decoded; if not, only where they lie is looked at, as with plain ones.
    pub contents: bool,
    /// Check what this inode leads to, and itself, instead of all that the root does. Link counts and the number of inodes
    /// are not compared then: names elsewhere count too.
    pub from: Option<Nid>,
    /// How many faults are named; further ones are counted.
    pub faults_max: usize,
    /// Told how many bytes of contents have been gone through so far. Comes from many threads.
    pub progress: Option<&'a (dyn Fn(u64) + Sync)>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self { jobs: NonZero::<usize>::MIN, contents: true, from: None, faults_max: 10_000, progress: None }
    }
}

impl fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { jobs, contents, from, faults_max, progress: _ } = self;
        f.debug_struct("Options")
            .field("jobs", jobs)
            .field("contents", contents)
            .field("from", from)
            .field("faults_max", faults_max)
            .finish_non_exhaustive()
    }
}

/// What a check found.
#[derive(Debug, Default)]
pub struct Report {
    /// The faults: of the whole image first, then by inode.
    pub faults: Vec<Fault>,
    /// Faults beyond [`Options::faults_max`], which are not named.
    pub unnamed: u64,
    /// Inodes reached from the root, or from [`Options::from`].
    pub inodes: u64,
    /// Directories among them.
    pub directories: u64,
    /// Names, `.` and `..` not counted.
    pub entries: u64,
    /// Length of all regular files in bytes, each counted once.
    pub file_bytes: u64,
    /// Bytes that their contents take, as far as they are stored outside of the metadata.
    pub stored_bytes: u64,
}

impl Report {
    /// Whether nothing but warnings was found.
    pub fn is_sound(&self) -> bool {
        self.unnamed == 0 && self.faults.iter().all(|fault| fault.severity() == Severity::Warning)
    }
}

/// Checks an image with its extra devices, in the order of the device table.
///
/// The image may have been opened with [`Image::open_unverified`]: pass what it said as `checksum`. Memory: about 60
/// bytes an inode, a few MiB a thread, and 64 MiB at most to remember what was decoded.
pub fn check(
    image: &Image,
    devices: &[Arc<dyn MetaSource>],
    checksum: Option<Error>,
    options: &Options<'_>,
) -> Report {
    let faults = Faults::new(options.faults_max);
    if let Some(error) = checksum {
        faults.image(FaultKind::Library(error));
    }
    whole::check(image, devices, &faults);
    let work = pool::Work::new(image, devices, options, &faults);
    let found = pool::run(&work, |send| tree::walk(image, options.from, &faults, send));
    let stored_bytes = work.stored_bytes();
    drop(work);
    if options.from.is_none() {
        whole::count(image, &found, &faults);
    }
    let (mut named, unnamed) = faults.into_sorted();
    names::find(image, &mut named);
    Report {
        faults: named,
        unnamed,
        inodes: found.inodes,
        directories: found.directories,
        entries: found.entries,
        file_bytes: found.file_bytes,
        stored_bytes,
    }
}
