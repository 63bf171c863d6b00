//! Descriptors of the layers of a new image.

use std::collections::BTreeMap;

use oci_spec::image::{Descriptor, Digest};

use super::pack::PackedBlob;
use crate::chunk::{ChunkHash, Encoding};
use crate::manifest::{CONTENTS_FILE, DescriptorDocument, Role, keys, types};

/// A layer of another image that becomes a device of this one, with the index that follows it where it has one.
pub(super) struct DeviceLayer {
    pub descriptor: Descriptor,
    pub index: Option<Descriptor>,
}

impl PackedBlob {
    /// Describes the blob as a layer with this role.
    pub fn describe(&self, role: Role) -> DescriptorDocument {
        let (start, end) = (self.index_range.start(), self.index_range.end());
        let mut annotations = BTreeMap::from([
            (keys::INDEX_RANGE.to_owned(), format!("{start}:{end}")),
            (keys::INDEX_DIGEST.to_owned(), crate::digest::sha256(self.index.payload()).to_string()),
        ]);
        let media_type = match self.encoding {
            Encoding::Raw => types::EROFS,
            Encoding::Zstd => {
                annotations.insert(keys::UNCOMPRESSED_DIGEST.to_owned(), self.diff_id.to_string());
                types::EROFS_ZSTD
            }
        };
        if self.index.hash() == ChunkHash::Blake3 {
            annotations.insert(keys::INDEX_MEDIA_TYPE.to_owned(), types::CHUNK_INDEX_BLAKE3.to_owned());
        }
        if role != Role::FileSystem {
            annotations.insert(keys::ROLE.to_owned(), role.to_string());
        }
        DescriptorDocument {
            media_type: media_type.to_owned(),
            digest: self.digest.clone(),
            size: self.size,
            annotations,
        }
    }
}

/// Notes that a layer's data are the contents of one file.
pub(super) fn of_file(mut layer: DescriptorDocument) -> DescriptorDocument {
    layer.annotations.insert(keys::CONTENTS.to_owned(), CONTENTS_FILE.to_owned());
    layer
}

/// Writes down a descriptor that was read.
pub(super) fn rewrite(descriptor: &Descriptor) -> DescriptorDocument {
    let annotations = descriptor.annotations().iter().flatten();
    DescriptorDocument {
        media_type: descriptor.media_type().to_string(),
        digest: descriptor.digest().clone(),
        size: descriptor.size(),
        annotations: annotations.map(|(key, value)| (key.clone(), value.clone())).collect(),
    }
}

/// DiffID of a layer: what its annotation says, else the digest of what is not compressed.
pub(super) fn diff_id(layer: &DescriptorDocument) -> Option<Digest> {
    match layer.annotations.get(keys::UNCOMPRESSED_DIGEST) {
        Some(text) => text.parse().ok(),
        None if layer.media_type == types::EROFS_ZSTD => None,
        None => Some(layer.digest.clone()),
    }
}
