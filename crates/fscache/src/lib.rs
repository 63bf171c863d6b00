//! A generic cache with the kernel's fscache model: volumes, cookies, hole decisions.
//!
//! A *volume* is a namespace, a *cookie* one blob's decoded data in it, a *presence map* the only
//! truth about which bytes are there. This crate decides what a read may do ([`decide`]), counts what
//! happened ([`Stats`]), hands out one [`Cookie`] per key ([`Cache`]) and says what a place to keep
//! the bytes must offer ([`Backend`], [`CacheObject`]). It does not keep bytes itself (that is
//! `larder-cachefiles`; [`memory`] is for tests), it does not fetch them (`larder-ondemand`), and it
//! knows neither file systems nor networks.
#![forbid(unsafe_code)]

mod key;
mod range;

mod decision;
mod presence;

mod backend;
mod error;

mod cache;
mod cookie;
mod stats;
mod table;

pub mod memory;

pub use backend::{Backend, CacheObject};
pub use cache::Cache;
pub use cookie::{Cookie, OnHole};
pub use decision::{Decision, IoSource, Run, Why, decide};
pub use error::Error;
pub use key::{CookieKey, VolumeKey};
pub use presence::Presence;
pub use range::{BlockSize, ObjectRange};
pub use stats::{Counts, Stats};
pub use table::{Lease, Table};
