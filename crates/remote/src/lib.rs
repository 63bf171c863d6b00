//! Bytes from elsewhere, by range: directories, HTTP servers, OCI registries.

mod error;
mod range;
mod source;

pub use error::Error;
pub use range::BlobRange;
pub use source::RangeSource;
