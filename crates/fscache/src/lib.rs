//! A generic cache with the kernel's fscache model: volumes, cookies, hole decisions.
//!
//! A *volume* is a namespace, a *cookie* one blob's or file's data in it, a *presence map* the only truth about
//! which bytes are there. A [`Cache`] hands out one [`Volume`] and one [`Cookie`] per key; a cookie in use
//! ([`InUse`]) begins operations ([`CacheResources`]), and those decide what a read may do ([`decide`]), read and
//! write. A place to keep the bytes is a [`Backend`] of [`CacheObject`]s: `larder-cachefiles` on a directory,
//! [`memory`] without one. Nothing here fetches (a [`Bring`] does, `larder-ondemand`), and nothing knows file systems
//! or networks.
//!
//! ```
//! use larder_fscache::{AuxData, Cache, CookieKey, IoSource, ObjectRange, ObjectSpec, OnHole, VolumeKey};
//! use larder_fscache::memory::Memory;
//!
//! let cache = Cache::new(Memory::new());
//! let volume = cache.acquire_volume(&VolumeKey::new("files")?, &AuxData::default())?;
//! let cookie = volume.acquire_cookie(&CookieKey::new("a")?, &ObjectSpec::of_size(8192))?;
//! let operation = cookie.use_cookie()?.begin_read_operation()?;
//!
//! let want = ObjectRange::at(0, 4096);
//! assert_eq!(operation.prepare_read(want, 8192).source, IoSource::DownloadFromServer);
//! operation.write(0, &[7; 4096])?;
//! assert_eq!(operation.prepare_read(want, 8192).source, IoSource::ReadFromCache);
//! let mut bytes = [0; 4096];
//! operation.read(0, &mut bytes, OnHole::Fail)?;
//! assert_eq!(bytes, [7; 4096]);
//! # Ok::<(), larder_fscache::Error>(())
//! ```
#![forbid(unsafe_code)]

mod coherency;
mod key;
mod range;

mod decision;
mod flags;
mod presence;

mod backend;
mod bring;
mod error;

mod cache;
mod cookie;
mod resources;
mod stats;
mod table;
mod volume;

pub mod memory;

pub use backend::{Backend, CacheObject};
pub use bring::Bring;
pub use cache::Cache;
pub use coherency::{AuxData, ObjectSpec};
pub use cookie::{Cookie, InUse, State};
pub use decision::{Decision, IoSource, Probe, Run, Why, decide};
pub use error::Error;
pub use flags::ReadFlags;
pub use key::{CookieKey, VolumeKey};
pub use presence::Presence;
pub use range::{BlockSize, ObjectRange};
pub use resources::{CacheResources, OnHole};
pub use stats::{Counts, Stats};
pub use table::{Lease, Table};
pub use volume::Volume;
