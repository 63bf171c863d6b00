//! Bytes from elsewhere, by range: directories, HTTP servers, OCI registries.
//!
//! A [`RangeSource`] is one blob on the far side. What it gives are exactly the bytes asked for, or an [`Error`]
//! that names place, range and finding. Nothing is verified here: whoever knows the digests does that. Nothing is
//! buffered beyond what was asked for, whatever the server sends.
//!
//! | kind | made by |
//! |---|---|
//! | a local file | [`DirectorySource::open`] |
//! | an address | [`HttpClient::blob`] |
//! | a blob of a registry | [`Registry::blob`] |
//!
//! A [`tree::TreeStore`] is a whole tree of files on the far side, whose files may change.

#![forbid(unsafe_code)]

mod error;
mod range;
mod source;

mod meter;
mod policy;
mod retry;
mod retry_after;

mod directory;

mod ask;
mod body;
mod client;
mod content_range;
mod http_source;
mod redirect;
mod tls;

mod challenge;
mod names;
mod registry;
mod token;

#[doc(hidden)]
pub mod fuzzing;
pub mod tree;

pub use client::HttpClient;
pub use directory::DirectorySource;
pub use error::Error;
pub use http_source::HttpSource;
pub use meter::{Meter, Reading};
pub use policy::Policy;
pub use range::BlobRange;
pub use registry::{FetchedManifest, Registry};
pub use source::{RangeSource, ReadHere};
