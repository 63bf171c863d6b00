//! Merging layers: many images become one tree, as overlayfs would show them.
//!
//! [`Tree::from_layers`](super::Tree::from_layers) goes through the names. What the tree becomes is the caller's choice:
//! [`write_image`](super::write_image) makes a copy in one piece, [`write_data`](super::write_data) one in chunks, and
//! [`write_merged`] an image of metadata that points into the layers.
//!
//! [`write_merged`]: super::write_merged

mod layer;
mod names;

pub use layer::Layer;
pub use names::MergeOptions;
