//! The control API: HTTP and JSON on a Unix socket, for the daemon's owner alone.
//!
//! `types` is the contract; errors cross as [`crate::errors::Report`] and come out as the same error they went in.

pub mod cache_types;
pub mod client;
pub mod lines;
pub mod owner;
pub mod path_text;
pub mod server;
mod stream;
pub mod types;

/// Largest request or answer body that either side accepts: the chunk layout of a very large image fits.
pub const BODY_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Names of the endpoints.
pub mod routes {
    /// The daemon, its mounts, its blobs.
    pub const STATUS: &str = "/v1/status";
    /// Mount and unmount.
    pub const MOUNTS: &str = "/v1/mounts";
    /// What was fetched for one mount.
    pub const RECORDS: &str = "/v1/mounts/{id}/records";
    /// Every object of the cache, a line of JSON each.
    pub const CACHE_OBJECTS: &str = "/v1/cache/objects";
    /// What the cache takes.
    pub const CACHE_USAGE: &str = "/v1/cache/usage";
    /// What happened to the cache since the worker started.
    pub const CACHE_STATS: &str = "/v1/cache/stats";
    /// Remove what nobody uses.
    pub const CACHE_PRUNE: &str = "/v1/cache/prune";
    /// Keep something from being culled, or no longer.
    pub const CACHE_PIN: &str = "/v1/cache/pin";
    /// Read what is present again: a line of JSON for each step.
    pub const CACHE_VERIFY: &str = "/v1/cache/verify";
    /// Trace events as they happen: a line of JSON each, until the caller hangs up.
    pub const TRACE: &str = "/v1/trace";
    /// Let another program take over.
    pub const REPLACE: &str = "/v1/replace";
    /// End the daemon.
    pub const STOP: &str = "/v1/stop";
}
