//! The fscache backend on a local directory: sparse backing files and presence maps.
//!
//! An object is a sparse file, as long as the blob it stands for, and a map of what is in it. The map has
//! two layers. The *live* map is shared memory that a keeper holds beyond the death of the worker; the
//! *durable* map is a file beside the data that names a block only after the block has been synced. A
//! restarted worker goes on from the live map, a restarted machine from the durable one. The extents of
//! the backing file say nothing: they change with preallocation, zeroing and lost writes.
//!
//! On disk, below the root:
//!
//! ```text
//! lock                              held by the one daemon that owns the cache, its pid inside
//! tmp/                              what is not finished; emptied at start
//! cache/<volume>/<2 hex>/<key>      the data
//! cache/<volume>/<2 hex>/<key>@map  the durable map ('@' cannot stand in a key)
//! ```
//!
//! The crate knows neither what the bytes mean nor where they come from. Nothing runs in the background:
//! the owner calls `commit` on its objects from time to time and before it stops.

mod boot_id;
mod error;
mod holder;

mod cache;
mod fitness;
mod lock;

mod layout;
mod object;
mod store;

mod durable;
mod live;
mod sys;

mod storage;

#[cfg(test)]
mod crash_tests;

pub use boot_id::BootId;
pub use cache::{Cachefiles, Config, ObjectInfo, Usage};
pub use error::Error;
pub use holder::{DescriptorHolder, NoHolder};
