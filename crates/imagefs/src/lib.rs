//! An EROFS image read through cookies: the file system client that needs no kernel.
//!
//! An image is metadata, complete and local, and devices, each a blob that is filled on demand. One read maps to many
//! slices: zeros, metadata, runs of bytes on several devices. All holes are filled side by side; then every decision is
//! taken again, and a second miss is an error. A read has one answer: all of its bytes, or one error.
//!
//! Names, attributes and links are asked of the image itself ([`ImageFs::image`]): they are metadata, so nothing is ever
//! fetched for them.

#![forbid(unsafe_code)]

mod error;
mod request;
mod sealed;
mod whole;

mod fs;

pub use error::Error;
pub use fs::ImageFs;
pub use sealed::SealedPiece;
pub use whole::Compared;
