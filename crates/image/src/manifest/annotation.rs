//! Annotations on layer descriptors, and what their values mean.

use std::fmt;

use larder_remote::BlobRange;
use oci_spec::image::{Descriptor, Digest};

use super::ManifestFault;

/// Keys of annotations.
pub(crate) mod keys {
    pub const INDEX_RANGE: &str = "org.erofs.chunk-index.range";
    pub const INDEX_DIGEST: &str = "org.erofs.chunk-index.digest";
    pub const INDEX_MEDIA_TYPE: &str = "org.erofs.chunk-index.mediaType";
    pub const INDEX_TARGET: &str = "org.erofs.chunk-index.target";
    pub const UNCOMPRESSED_DIGEST: &str = "org.erofs.uncompressed-digest";
    pub const ROLE: &str = "org.erofs.role";
    pub const CONTENTS: &str = "vnd.larder.contents";
    pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
}

/// Value of `vnd.larder.contents` of a layer whose data are the contents of one file.
pub(crate) const CONTENTS_FILE: &str = "file";

/// What a layer is for: `org.erofs.role`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Role {
    /// No annotation: a file system of the stack, or the root itself.
    FileSystem,
    /// A lower directory of an overlay.
    OverlayLower,
    /// File payloads that a later layer redirects to.
    OverlayData,
    /// A byte source for the next file system.
    Device,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FileSystem => "none",
            Self::OverlayLower => "overlay-lower",
            Self::OverlayData => "overlay-data",
            Self::Device => "device",
        })
    }
}

/// One layer's descriptor with its place in the manifest, for reading annotations.
#[derive(Clone, Copy)]
pub(super) struct Annotated<'a> {
    pub layer: usize,
    pub descriptor: &'a Descriptor,
}

impl<'a> Annotated<'a> {
    fn text(self, key: &str) -> Option<&'a str> {
        self.descriptor.annotations().as_ref()?.get(key).map(String::as_str)
    }

    fn fault(self, key: &'static str, value: &str) -> ManifestFault {
        ManifestFault::Annotation { layer: self.layer, key, value: value.to_owned() }
    }

    fn digest(self, key: &'static str) -> Result<Option<Digest>, ManifestFault> {
        self.text(key).map(|text| text.parse().map_err(|_| self.fault(key, text))).transpose()
    }

    pub fn role(self) -> Result<Role, ManifestFault> {
        match self.text(keys::ROLE) {
            None => Ok(Role::FileSystem),
            Some("overlay-lower") => Ok(Role::OverlayLower),
            Some("overlay-data") => Ok(Role::OverlayData),
            Some("device") => Ok(Role::Device),
            Some(other) => Err(self.fault(keys::ROLE, other)),
        }
    }

    pub fn index_digest(self) -> Result<Option<Digest>, ManifestFault> {
        self.digest(keys::INDEX_DIGEST)
    }

    pub fn index_target(self) -> Result<Option<Digest>, ManifestFault> {
        self.digest(keys::INDEX_TARGET)
    }

    /// Media type of the embedded index, if one is stated.
    pub fn index_media_type(self) -> Option<&'a str> {
        self.text(keys::INDEX_MEDIA_TYPE)
    }

    /// `offset[:end]`, half-open, inside the blob.
    pub fn index_range(self) -> Result<Option<BlobRange>, ManifestFault> {
        let Some(text) = self.text(keys::INDEX_RANGE) else { return Ok(None) };
        let size = self.descriptor.size();
        let (start, end) = match text.split_once(':') {
            Some((start, end)) => (decimal(start), decimal(end)),
            None => (decimal(text), Some(size)),
        };
        let range = start.zip(end).and_then(|(start, end)| BlobRange::new(start, end));
        match range {
            Some(range) if range.end() <= size && !range.is_empty() => Ok(Some(range)),
            _ => Err(self.fault(keys::INDEX_RANGE, text)),
        }
    }
}

/// A number of decimal digits alone: no sign, no space.
fn decimal(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use oci_spec::image::MediaType;

    use super::*;
    use crate::digest::sha256;

    fn range(text: &str) -> Result<Option<BlobRange>, ManifestFault> {
        let mut descriptor = Descriptor::new(MediaType::ImageLayer, 189, sha256(b""));
        descriptor.set_annotations(Some([(keys::INDEX_RANGE.to_owned(), text.to_owned())].into()));
        Annotated { layer: 0, descriptor: &descriptor }.index_range()
    }

    #[test]
    fn an_index_range_lies_in_the_blob() {
        let whole = |start, end| Ok(BlobRange::new(start, end));
        assert_eq!(range("53:189"), whole(53, 189));
        assert_eq!(range("53"), whole(53, 189));
        assert_eq!(range("53:100"), whole(53, 100));
        for text in
            ["", ":", "53:", ":189", "-1:3", "+1:3", " 1:3", "189:189", "190", "53:190", "9:8", "0x10:20"]
        {
            assert!(range(text).is_err(), "{text:?} was taken");
        }
        assert!(range("99999999999999999999").is_err());
    }
}
