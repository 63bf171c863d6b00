//! The inventory of the cache: what lies in it, what it takes, what is to stay, and whether it is still right.
//!
//! One path for the daemon, which answers for a cache that it owns, and for commands that find no daemon and open the
//! cache themselves. Everything works on the cache's index: no object is looked at but by `verify`.

mod catalogue;
mod from_disk;
mod list;
mod pin;
mod prune;
mod space;
mod sums;
mod verify;

use larder_cachefiles::Cachefiles;

pub use catalogue::{Catalogue, KnownImage};
pub use verify::Verifier;

/// A cache, and the images whose blobs it is known to have.
#[derive(Clone, Copy)]
pub struct Inventory<'a> {
    /// The cache.
    pub cachefiles: &'a Cachefiles,
    /// The images.
    pub catalogue: &'a Catalogue,
}
