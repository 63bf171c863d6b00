//! The fscache backend on a local directory: sparse backing files and presence maps.
//!
//! An object is a sparse file, as long as the blob it stands for, and a map of what is in it. The map has
//! two layers. The *live* map is shared memory that a keeper holds beyond the death of the worker; the
//! *durable* map is a file beside the data that names a block only after the block has been synced. A
//! restarted worker goes on from the live map, a restarted machine from the durable one. The extents of
//! the backing file say nothing: they change with preallocation, zeroing and lost writes. What the file is
//! stands in an attribute of its own; what does not fit is replaced, never trusted.
//!
//! On disk, below the root:
//!
//! ```text
//! lock                              held by the one daemon that owns the cache, its pid inside
//! format                            version of the directory, and its tag
//! reserve                           bytes that the cache does not pass; counts after an unclean end
//! index.redb                        which objects there are, and what they take; rebuilt by a walk
//! index.seal                        that it was closed cleanly, and is unchanged; gone while it is open
//! tmp/                              what is not finished; emptied at start
//! graveyard/                        folders whose objects count no longer; emptied at leisure
//! cache/<volume>/<2 hex>/<key>      the data
//! cache/<volume>/<2 hex>/<key>@map  the durable map ('@' cannot stand in a key)
//! cache/<volume>/<2 hex>/<key>@pin  keeps the object from being culled
//! ```
//!
//! The crate knows neither what the bytes mean nor where they come from. Except for the walk that rebuilds an
//! index nothing runs in the background: the owner calls `commit` on its objects and
//! [`maintain`](Cachefiles::maintain) on the cache from time to time, and `commit` before it stops.

mod boot_id;
mod error;
mod holder;
mod limits;
mod spec;
mod tag;

mod bind;
mod cache;
mod fitness;
mod lock;

mod commits;
mod layout;
mod object;
mod sealing;
mod seat;
mod store;
mod unused;
mod volume;

mod coherency;
mod durable;
mod live;
mod sys;

mod cull;
mod index;
mod ledger;
mod walk;

mod storage;

#[cfg(test)]
mod crash_tests;

pub use bind::{FORMAT_VERSION, format_version};
pub use boot_id::BootId;
pub use cache::{Cachefiles, Config, ObjectInfo, Prune, Usage};
pub use cull::Culled;
pub use error::Error;
pub use holder::{DescriptorHolder, NoHolder};
pub use layout::{held_names, is_held_for_object};
pub use limits::{Limits, Percentages};
pub use object::IdleObject;
pub use tag::Tag;

pub(crate) use spec::Spec;
