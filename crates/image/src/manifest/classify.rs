//! [`Composition`]: the layers of a manifest in their roles.

use larder_remote::BlobRange;
use oci_spec::image::{Descriptor, Digest, DigestAlgorithm, ImageManifest, MediaType};

use super::annotation::Annotated;
use super::media_type::Kind;
use super::{ManifestFault, Role, Unsupported, types};
use crate::Error;
use crate::chunk::Encoding;

/// One file system and its devices, in the order of its device table.
#[derive(Clone, Debug)]
pub struct Composition {
    /// The image configuration.
    pub config: Descriptor,
    /// The EROFS image itself.
    pub metadata: LayerPlan,
    /// Its devices: the first one is device 1.
    pub devices: Vec<LayerPlan>,
}

/// A layer with what is needed to read it chunk by chunk.
#[derive(Clone, Debug)]
pub struct LayerPlan {
    /// Its descriptor.
    pub descriptor: Descriptor,
    /// How it is stored.
    pub encoding: Encoding,
    /// Where its chunk index is.
    pub index: IndexPlace,
}

/// Where the chunk index of a layer is. A digest of the manifest vouches for it in either place.
#[derive(Clone, Debug)]
pub enum IndexPlace {
    /// At the end of the layer's own blob.
    Embedded {
        /// Stored bytes of the index; in a zstd layer the skippable frame with its header.
        range: BlobRange,
        /// Digest of the index alone.
        digest: Digest,
    },
    /// A layer of its own.
    Standalone(Box<Descriptor>),
}

impl LayerPlan {
    /// First stored byte after the chunks.
    pub fn data_end(&self) -> u64 {
        match &self.index {
            IndexPlace::Embedded { range, .. } => range.start(),
            IndexPlace::Standalone(_) => self.descriptor.size(),
        }
    }

    /// Digest of the chunk index.
    pub fn index_digest(&self) -> &Digest {
        match &self.index {
            IndexPlace::Embedded { digest, .. } => digest,
            IndexPlace::Standalone(descriptor) => descriptor.digest(),
        }
    }

    /// Stored bytes that hold the index.
    pub fn index_bytes(&self) -> u64 {
        match &self.index {
            IndexPlace::Embedded { range, .. } => range.len(),
            IndexPlace::Standalone(descriptor) => descriptor.size(),
        }
    }
}

/// Why a manifest is not taken: it breaks a rule, or asks for what there is not.
enum Refusal {
    Fault(ManifestFault),
    Unsupported(Unsupported),
}

impl From<ManifestFault> for Refusal {
    fn from(fault: ManifestFault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Unsupported> for Refusal {
    fn from(what: Unsupported) -> Self {
        Self::Unsupported(what)
    }
}

impl Composition {
    /// Reads the manifest in `bytes`, whose digest is `digest`, and sorts its layers by role.
    ///
    /// # Errors
    ///
    /// [`Error::Document`] when it is no manifest, [`Error::Manifest`] when it breaks a rule, [`Error::Unsupported`]
    /// when it asks for what is not built yet.
    pub fn read(bytes: &[u8], digest: &Digest) -> Result<Self, Error> {
        let manifest: ImageManifest = serde_json::from_slice(bytes)
            .map_err(|source| Error::Document { place: format!("manifest {digest}"), source })?;
        compose(&manifest).map_err(|refusal| match refusal {
            Refusal::Fault(fault) => Error::Manifest { manifest: digest.clone(), fault: Box::new(fault) },
            Refusal::Unsupported(what) => Error::Unsupported { manifest: digest.clone(), what },
        })
    }

    /// The metadata layer, then the devices.
    pub fn layers(&self) -> impl Iterator<Item = &LayerPlan> {
        std::iter::once(&self.metadata).chain(&self.devices)
    }
}

fn compose(manifest: &ImageManifest) -> Result<Composition, Refusal> {
    if manifest.schema_version() != 2 {
        return Err(ManifestFault::SchemaVersion { found: manifest.schema_version() }.into());
    }
    if let Some(kind) = manifest.artifact_type() {
        return Err(Unsupported::ArtifactType(kind.to_string()).into());
    }
    let layers = manifest.layers();
    check_kinds(layers)?;
    for descriptor in layers.iter().chain([manifest.config()]) {
        require_sha256(descriptor.digest())?;
    }
    let mut devices = Vec::new();
    let mut file_systems = Vec::new();
    for (layer, descriptor) in layers.iter().enumerate() {
        let entry = Annotated { layer, descriptor };
        match Kind::of(descriptor.media_type().as_ref()) {
            Kind::ChunkIndex => check_standalone_index(layers, entry)?,
            _ => match entry.role()? {
                Role::Device => devices.push((layer, descriptor)),
                Role::OverlayData => return Err(Unsupported::OverlayData { layer }.into()),
                Role::FileSystem | Role::OverlayLower => file_systems.push(layer),
            },
        }
    }
    let root = single_root(layers, &file_systems)?;
    let plan = |layer| plan_layer(layers, layer);
    Ok(Composition {
        config: manifest.config().clone(),
        metadata: plan(root)?,
        devices: devices.into_iter().map(|(layer, _)| plan(layer)).collect::<Result<_, _>>()?,
    })
}

/// Refuses what is no EROFS image, before looking at roles.
fn check_kinds(layers: &[Descriptor]) -> Result<(), Refusal> {
    let kind = |descriptor: &Descriptor| Kind::of(descriptor.media_type().as_ref());
    let is_erofs = |kind| matches!(kind, Kind::Erofs(_) | Kind::ErofsBeforeSpec | Kind::ChunkIndex);
    if layers.is_empty() {
        return Err(ManifestFault::NoLayers.into());
    }
    let has_erofs = layers.iter().any(|descriptor| is_erofs(kind(descriptor)));
    for (layer, descriptor) in layers.iter().enumerate() {
        let media_type = || descriptor.media_type().to_string();
        let is_device = Annotated { layer, descriptor }.role()? == Role::Device;
        match kind(descriptor) {
            Kind::ErofsUnknown => {
                return Err(ManifestFault::UnknownLayer { layer, media_type: media_type() }.into());
            }
            Kind::Tar | Kind::Other if has_erofs && is_device => {
                return Err(Unsupported::DeviceCarrier { layer, media_type: media_type() }.into());
            }
            Kind::Tar | Kind::Other if has_erofs => {
                return Err(ManifestFault::Mixed { layer, media_type: media_type() }.into());
            }
            Kind::Tar => return Err(Unsupported::TarLayers.into()),
            Kind::Other => return Err(ManifestFault::UnknownLayer { layer, media_type: media_type() }.into()),
            Kind::Erofs(_) | Kind::ErofsBeforeSpec | Kind::ChunkIndex => {}
        }
    }
    Ok(())
}

fn check_standalone_index(layers: &[Descriptor], index: Annotated<'_>) -> Result<(), Refusal> {
    let Annotated { layer, descriptor } = index;
    let before = layer.checked_sub(1).and_then(|before| layers.get(before));
    let Some(before) = before.filter(|_| layer + 1 < layers.len()) else {
        return Err(ManifestFault::IndexPlace { layer }.into());
    };
    let role = index.role()?;
    if role != Role::FileSystem {
        let media_type = descriptor.media_type().to_string();
        return Err(ManifestFault::RoleForbidden { layer, role, media_type }.into());
    }
    match index.index_target()? {
        Some(target) if target != *before.digest() => {
            Err(ManifestFault::IndexTarget { layer, target, found: before.digest().clone() }.into())
        }
        _ => Ok(()),
    }
}

/// Returns the one file system there is; it must be the last layer, so that every device finds it.
fn single_root(layers: &[Descriptor], file_systems: &[usize]) -> Result<usize, Refusal> {
    let last = layers.len() - 1;
    match *file_systems {
        [root] if root == last => Ok(root),
        [.., root] if root == last => Err(Unsupported::Stack { layers: file_systems.len() }.into()),
        _ => {
            let role = Annotated { layer: last, descriptor: &layers[last] }.role()?;
            Err(ManifestFault::LastLayer { role }.into())
        }
    }
}

fn plan_layer(layers: &[Descriptor], layer: usize) -> Result<LayerPlan, Refusal> {
    let descriptor = &layers[layer];
    let Kind::Erofs(encoding) = Kind::of(descriptor.media_type().as_ref()) else {
        return Err(Unsupported::NoChunkIndex { layer }.into());
    };
    let entry = Annotated { layer, descriptor };
    // An index of a type that is not known counts as none.
    let is_known = entry.index_media_type().is_none_or(|found| found == types::CHUNK_INDEX);
    let range = entry.index_range()?.filter(|_| is_known);
    let next = layers.get(layer + 1).filter(|next| *next.media_type() == MediaType::from(types::CHUNK_INDEX));
    let index = match (range, next) {
        (Some(range), _) => {
            let digest = entry.index_digest()?.ok_or(Unsupported::NoIndexDigest { layer })?;
            require_sha256(&digest)?;
            IndexPlace::Embedded { range, digest }
        }
        (None, Some(next)) => IndexPlace::Standalone(Box::new(next.clone())),
        (None, None) => return Err(Unsupported::NoChunkIndex { layer }.into()),
    };
    Ok(LayerPlan { descriptor: descriptor.clone(), encoding, index })
}

fn require_sha256(digest: &Digest) -> Result<(), ManifestFault> {
    match digest.algorithm() {
        DigestAlgorithm::Sha256 => Ok(()),
        _ => Err(ManifestFault::DigestKind { digest: digest.clone() }),
    }
}
