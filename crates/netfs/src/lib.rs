//! Read requests of a network file system on top of fscache: one cookie a file.
//!
//! The machine is that of the kernel's netfs library (fs/netfs, v6.1): a read becomes a [`Request`], cut into
//! [`Subrequest`]s by the decision of the cache; they go out side by side, are read from the cache, downloaded or
//! filled with zeros; a short one is continued, a failing cache is passed by, and each part is handed to its readers
//! as soon as it is ready. What was downloaded is copied to the cache behind the reader.
//!
//! Where bytes come from is a [`Source`]; networks are not known here. A [`Version`] goes with every download, so that
//! a file that changes on the far side is never mixed with what it was.
//!
//! | part | what it is |
//! |---|---|
//! | [`Subrequest`], [`Request`], [`Readahead`] | the state machines: plain data, no I/O |
//! | [`File`] | one version of one file: its cookie, its source, the windows under way |
//! | [`Netfs`] | what all files share: limits, memory, the copier, [`Stats`] |

#![forbid(unsafe_code)]

mod error;
mod source;
mod version;

mod readahead;
mod request;
mod subrequest;

mod budget;
mod buffers;
mod cache;
mod copier;
mod file;
mod issue;
mod netfs;
mod stats;
mod window;

pub use cache::Cached;
pub use error::Error;
pub use file::{File, Read};
pub use netfs::{Limits, Netfs};
pub use readahead::{Plan, Readahead};
pub use request::{Part, Request};
pub use source::{Source, SourceError};
pub use stats::{Counts, Stats};
pub use subrequest::{Next, State, Subrequest, Terminated};
pub use version::Version;
