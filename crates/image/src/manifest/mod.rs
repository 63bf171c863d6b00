//! Manifests: what an image consists of, and in which roles.
//!
//! Source of truth: OCI image-spec v1.1 and erofs-image-spec `spec.md`, §2 to §6 (draft).

mod annotation;
mod classify;
mod fault;
mod index;
mod media_type;
mod write;

pub use annotation::Role;
pub use classify::{Composition, IndexPlace, LayerPlan};
pub use fault::{DeviceFault, ManifestFault, Unsupported};

pub(crate) use annotation::{CONTENTS_FILE, keys};
pub(crate) use index::{IndexDocument, ManifestEntry, Platform, host_architecture};
pub(crate) use media_type::types;
pub(crate) use write::{ConfigDocument, DescriptorDocument, ManifestDocument, canonical};

/// Largest manifest, index document or configuration that is read: what registries promise to take.
pub const DOCUMENT_BYTES_MAX: u64 = 4 << 20;
