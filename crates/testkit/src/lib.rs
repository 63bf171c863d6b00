//! Test support: a registry that misbehaves on request.
//!
//! [`Registry`] serves an OCI layout directory, or blobs from memory, on the loopback from a thread of its own, so
//! that blocking and async tests use it alike; dropping it cuts every connection. A [`Fault`] can be set at any time;
//! the [`Ledger`] tells which bytes were sent how often. Misuse by a test panics: this crate is for tests only.
//!
//! For trees of files there are real servers, started on the loopback and ended by their process ids: [`Nginx`] and
//! [`Moto`] (S3), where the host has them; and [`OddServer`], which changes files at the wrong moment. [`Troubled`] is a cache
//! that fails.
//!
//! ```
//! use larder_testkit::{Content, Fault, Registry};
//!
//! let mut content = Content::default();
//! let digest = content.add_blob(b"some bytes".as_slice());
//! let registry = Registry::start(content);
//! registry.fail_next(1, Fault::Status(503));
//! assert_eq!(registry.max_times_served(&digest), 0);
//! ```

#![forbid(unsafe_code)]

mod content;
mod fault;
mod ledger;
mod registry;

mod answer;
mod body;
mod server;

mod moto;
mod nginx;
mod odd;
mod process;

mod troubled;

pub use content::Content;
pub use fault::{Fault, Target, Times};
pub use ledger::{Ledger, Logged};
pub use moto::Moto;
pub use nginx::{Listing, Nginx};
pub use odd::{Behaviour, OddServer};
pub use registry::Registry;
pub use troubled::{Troubled, Troubles};
