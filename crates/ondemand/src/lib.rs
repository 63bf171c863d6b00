//! From a hole to verified bytes: the fill engine.
//!
//! A front end meets a hole in a cookie and calls [`Engine::fill`]. The question goes through the [`table`]s of objects and
//! requests, like the kernel's own to its daemon. The engine finds the chunks that cover it, joins the
//! flights already under way or starts new ones, and for every chunk, in this order: checks the digest, decodes, writes
//! to the cache, sets the presence bits, wakes whoever waits. Whether a byte is present is asked of the cookie, never of
//! a table kept here.
//!
//! Left to others: what a chunk is and how it is verified (`larder-image`), how bytes travel and what is tried again
//! (`larder-remote`), where they are kept (`larder-fscache`), who asks (`larder-imagefs`, `larder-mount`).

#![forbid(unsafe_code)]

// What is asked.
mod cause;
mod config;

// Who asks, and who is answered.
pub mod table;

// Pure: who brings a chunk, what is asked of the source, what comes next.
mod flight;
mod inbox;
mod plan;
mod readahead;
mod schedule;
mod seam;

// The way of a chunk.
mod admission;
mod blob;
mod bring;
mod demand;
mod engine;
mod held;
mod here;
mod lane;
mod permit;
mod room;
mod settle;
mod sources;
mod sync;
mod trip;

// What is told.
mod error;
mod record;
mod stats;

pub use blob::Blob;
pub use cause::Cause;
pub use config::EngineConfig;
pub use engine::Engine;
pub use error::FillError;
pub use record::{FaultRecord, FillRecord};
pub use sources::SourceLease;
pub use stats::{BlobStats, LastError};
