//! EROFS images in OCI layouts: manifests, chunk indexes, digests, building.
//!
//! An image is a manifest that names one EROFS image (the *metadata* layer) and the blobs with its file data (the
//! *devices*). Each layer has a chunk index: which stored bytes hold which decoded bytes, and their digest. The
//! manifest's digest vouches for the indexes and they for every chunk, so that each chunk can be fetched, checked and
//! decoded alone. Caches and mounts are others' business.

mod error;
mod sys;

pub mod digest;
mod reference;

pub mod chunk;
pub mod manifest;

mod repository;

mod load;
mod metadata;
mod persist;

pub mod build;

pub use chunk::{Chunk, ChunkIndex, ChunkTable, Verified};
pub use error::Error;
pub use load::{Layer, LoadedImage, load};
pub use metadata::fetch_metadata;
pub use oci_spec::image::{Descriptor, Digest};
pub use persist::restore;
pub use reference::{Reference, Version};
pub use repository::{LayoutRepository, RegistryRepository, Repository};
