//! What can be wrong with a manifest, and what is not supported yet.

use oci_spec::image::Digest;

use super::Role;

/// A rule of the specification that a manifest breaks.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestFault {
    /// Not version 2.
    #[error("schema version {found} instead of 2")]
    SchemaVersion {
        /// The version.
        found: u32,
    },
    /// Nothing in it.
    #[error("no layers")]
    NoLayers,
    /// A member of the EROFS family that a consumer must refuse.
    #[error("layer {layer}: media type {media_type:?} is unknown")]
    UnknownLayer {
        /// Number of the layer, from 0.
        layer: usize,
        /// Its media type.
        media_type: String,
    },
    /// EROFS and tar layers in one manifest.
    #[error("layer {layer}: media type {media_type:?} among EROFS layers")]
    Mixed {
        /// Number of the layer, from 0.
        layer: usize,
        /// Its media type.
        media_type: String,
    },
    /// The last layer is none that a root can be made of.
    #[error("the last layer has role {role}, and nothing after it could use it")]
    LastLayer {
        /// Its role.
        role: Role,
    },
    /// A chunk index that stands alone, at either end.
    #[error("layer {layer}: a chunk index with no layer before it or none after it")]
    IndexPlace {
        /// Number of the layer, from 0.
        layer: usize,
    },
    /// A chunk index that says it belongs to another layer than the one before it.
    #[error("layer {layer}: a chunk index for {target}, after layer {found}")]
    IndexTarget {
        /// Number of the layer, from 0.
        layer: usize,
        /// What its annotation says.
        target: Digest,
        /// The digest of the layer before it.
        found: Digest,
    },
    /// A role for media types that cannot have it.
    #[error("layer {layer}: role {role} for media type {media_type:?}")]
    RoleForbidden {
        /// Number of the layer, from 0.
        layer: usize,
        /// Its role.
        role: Role,
        /// Its media type.
        media_type: String,
    },
    /// An annotation that says nothing sensible.
    #[error("layer {layer}: annotation {key} = {value:?} is malformed or lies outside the blob")]
    Annotation {
        /// Number of the layer, from 0.
        layer: usize,
        /// Its key.
        key: &'static str,
        /// Its value.
        value: String,
    },
    /// A digest of another algorithm than SHA-256.
    #[error("digest {digest} is no SHA-256")]
    DigestKind {
        /// The digest.
        digest: Digest,
    },
}

/// What a well-formed manifest may ask for and does not get yet.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Unsupported {
    /// Something that is not a container image.
    ArtifactType(String),
    /// An ordinary image of tar layers.
    TarLayers,
    /// Several file systems to be stacked.
    Stack {
        /// Number of file systems.
        layers: usize,
    },
    /// A layer of payloads for overlayfs.
    OverlayData {
        /// Number of the layer, from 0.
        layer: usize,
    },
    /// A device that is no EROFS blob.
    DeviceCarrier {
        /// Number of the layer, from 0.
        layer: usize,
        /// Its media type.
        media_type: String,
    },
    /// A layer that can only be read from front to back.
    NoChunkIndex {
        /// Number of the layer, from 0.
        layer: usize,
    },
    /// Chunks that begin inside a block of the cache.
    ChunkAlignment {
        /// Number of the device, from 1.
        device: usize,
    },
    /// A chunk index that nothing vouches for.
    NoIndexDigest {
        /// Number of the layer, from 0.
        layer: usize,
    },
}

impl Unsupported {
    /// What the operator can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::ArtifactType(_) => "check that the reference names a container image",
            Self::TarLayers => "make an EROFS image of it: unpack it and run `larder build dir:PATH`",
            Self::Stack { .. } | Self::OverlayData { .. } => {
                "merge its layers into one: mount it elsewhere and run `larder build`"
            }
            Self::DeviceCarrier { .. } | Self::ChunkAlignment { .. } => {
                "rebuild the image with `larder build`"
            }
            Self::NoChunkIndex { .. } | Self::NoIndexDigest { .. } => {
                "on-demand loading needs a chunk index with a digest; rebuild the image with `larder build`"
            }
        }
    }
}

impl std::fmt::Display for Unsupported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ArtifactType(found) => write!(f, "an artifact of type {found:?}"),
            Self::TarLayers => f.write_str("an image of tar layers"),
            Self::Stack { layers } => write!(f, "a stack of {layers} EROFS layers"),
            Self::OverlayData { layer } => write!(f, "layer {layer}: an overlay-data layer"),
            Self::DeviceCarrier { layer, media_type } => {
                write!(f, "layer {layer}: a device of media type {media_type:?}")
            }
            Self::ChunkAlignment { device } => {
                write!(f, "device {device}: chunks that do not begin at multiples of 4096 bytes")
            }
            Self::NoChunkIndex { layer } => write!(f, "layer {layer}: an EROFS layer without a chunk index"),
            Self::NoIndexDigest { layer } => {
                write!(f, "layer {layer}: a chunk index without a digest in the manifest")
            }
        }
    }
}

/// Where an EROFS image and the manifest around it do not agree.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceFault {
    /// More or fewer devices.
    #[error("the image has {found} devices, and {expected} layers with role device come before it")]
    Count {
        /// Devices of the manifest.
        expected: usize,
        /// Devices of the image.
        found: usize,
    },
    /// Another blob in a device's place.
    #[error("device {device} of the image is blob {found}, and the manifest has {expected}")]
    Tag {
        /// Number of the device, from 1.
        device: usize,
        /// Hex of the digest that the manifest has.
        expected: String,
        /// What the device table has.
        found: String,
    },
}
