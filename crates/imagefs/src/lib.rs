//! An EROFS image whose devices are cookies: the file-system client of the raw cache API.
//!
//! A read is one request with many slices: what is metadata is read from the metadata image, holes of the file are
//! zeros, and what lies on a device is asked of its cookie. Missing slices are filled side by side; then every decision
//! is taken again, and a second miss is an error, never zeros (P1).
//!
//! Knows nothing of kernels: a FUSE loop, a virtual machine monitor or `larder cat` can sit on top.

#![forbid(unsafe_code)]

mod error;
mod fs;

pub use error::Error;
pub use fs::ImageFs;
