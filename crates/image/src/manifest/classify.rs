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
    let known = [types::CHUNK_INDEX, types::CHUNK_INDEX_BLAKE3];
    let is_known = entry.index_media_type().is_none_or(|found| known.contains(&found));
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::{DescriptorDocument, ManifestDocument, canonical, keys};
    use super::*;
    use crate::digest::sha256;

    /// A layer of 1000 bytes; its digest follows from its media type and annotations.
    fn layer(media_type: &str, annotations: &[(&str, &str)]) -> DescriptorDocument {
        let annotations: BTreeMap<_, _> =
            annotations.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        let digest = sha256(format!("{media_type}{annotations:?}").as_bytes());
        DescriptorDocument { media_type: media_type.to_owned(), digest, size: 1000, annotations }
    }

    const SOME_DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const INDEXED: [(&str, &str); 2] = [(keys::INDEX_RANGE, "900"), (keys::INDEX_DIGEST, SOME_DIGEST)];
    const DEVICE: (&str, &str) = (keys::ROLE, "device");

    fn root() -> DescriptorDocument {
        layer(types::EROFS_ZSTD, &INDEXED)
    }

    fn device() -> DescriptorDocument {
        layer(types::EROFS_ZSTD, &[INDEXED[0], INDEXED[1], DEVICE])
    }

    fn read(layers: Vec<DescriptorDocument>) -> Result<Composition, Error> {
        let manifest = canonical(&ManifestDocument::new(layer(types::CONFIG, &[]), layers));
        Composition::read(&manifest, &sha256(&manifest))
    }

    fn refusal(layers: Vec<DescriptorDocument>) -> String {
        let error = read(layers).expect_err("it is refused");
        assert!(error.hint().is_some(), "{error}");
        error.to_string().split_once(": ").expect("the manifest comes first").1.to_owned()
    }

    #[test]
    fn devices_go_to_the_file_system_after_them_in_order() {
        let second = layer(types::EROFS, &[(keys::INDEX_RANGE, "800:1000"), INDEXED[1], DEVICE]);
        let found = read(vec![device(), second.clone(), root()]).expect("a root with two devices");
        assert_eq!(*found.metadata.descriptor.digest(), root().digest);
        let digests: Vec<_> = found.devices.iter().map(|plan| plan.descriptor.digest().clone()).collect();
        assert_eq!(digests, [device().digest, second.digest]);
        assert_eq!(found.devices[1].encoding, Encoding::Raw);
        assert_eq!(found.devices[1].data_end(), 800);
        assert_eq!(found.layers().count(), 3);
    }

    #[test]
    fn a_chunk_index_may_be_a_layer_of_its_own() {
        let bare = layer(types::EROFS_ZSTD, &[DEVICE]);
        let index = layer(types::CHUNK_INDEX, &[(keys::INDEX_TARGET, bare.digest.as_ref())]);
        let found = read(vec![bare, index.clone(), root()]).expect("a device with its index behind it");
        assert_eq!(*found.devices[0].index_digest(), index.digest);
        assert_eq!(found.devices[0].data_end(), 1000, "nothing but chunks is in the blob");
    }

    #[test]
    fn a_manifest_that_breaks_a_rule_is_refused_with_the_place() {
        let index = || layer(types::CHUNK_INDEX, &[]);
        let with = |key, value| layer(types::EROFS_ZSTD, &[INDEXED[0], INDEXED[1], (key, value)]);
        for (layers, expected) in [
            (vec![], "no layers"),
            (vec![device()], "the last layer has role device, and nothing after it could use it"),
            (vec![root(), device()], "the last layer has role device, and nothing after it could use it"),
            (vec![index(), root()], "layer 0: a chunk index with no layer before it or none after it"),
            (vec![root(), index()], "layer 1: a chunk index with no layer before it or none after it"),
            (
                vec![device(), layer("application/vnd.erofs+gzip", &[]), root()],
                "layer 1: media type \"application/vnd.erofs+gzip\" is unknown",
            ),
            (
                vec![layer("application/vnd.oci.image.layer.v1.tar+gzip", &[]), root()],
                "layer 0: media type \"application/vnd.oci.image.layer.v1.tar+gzip\" among EROFS layers",
            ),
            (
                vec![device(), layer(types::CHUNK_INDEX, &[DEVICE]), root()],
                "layer 1: role device for media type \"application/vnd.erofs.chunk-index.v1\"",
            ),
            (
                vec![with(keys::ROLE, "upper")],
                "layer 0: annotation org.erofs.role = \"upper\" is malformed or lies outside the blob",
            ),
            (
                vec![with(keys::INDEX_RANGE, "900:1001")],
                "layer 0: annotation org.erofs.chunk-index.range = \"900:1001\" is malformed or lies outside the blob",
            ),
            (
                vec![with(keys::INDEX_DIGEST, "sha256:0")],
                "layer 0: annotation org.erofs.chunk-index.digest = \"sha256:0\" is malformed or lies outside the blob",
            ),
        ] {
            assert_eq!(refusal(layers), expected);
        }
        let target = layer(types::CHUNK_INDEX, &[(keys::INDEX_TARGET, SOME_DIGEST)]);
        assert!(
            refusal(vec![device(), target, root()]).starts_with("layer 1: a chunk index for sha256:e3b0c4")
        );
        let sha512 = format!("sha512:{}", "0".repeat(128));
        assert!(refusal(vec![with(keys::INDEX_DIGEST, &sha512)]).ends_with("is no SHA-256"));
    }

    #[test]
    fn what_is_not_supported_yet_is_refused_by_its_name() {
        let role = |role| layer(types::EROFS, &[INDEXED[0], INDEXED[1], (keys::ROLE, role)]);
        let no_digest = layer(types::EROFS, &[INDEXED[0]]);
        let later = layer(types::EROFS, &[INDEXED[0], INDEXED[1], (keys::INDEX_MEDIA_TYPE, "application/x")]);
        for (layers, expected) in [
            (vec![layer("application/vnd.oci.image.layer.v1.tar+gzip", &[])], "an image of tar layers"),
            (vec![role("overlay-lower"), root()], "a stack of 2 EROFS layers"),
            (vec![root(), root(), root()], "a stack of 3 EROFS layers"),
            (vec![role("overlay-data"), root()], "layer 0: an overlay-data layer"),
            (
                vec![layer("application/octet-stream", &[DEVICE]), root()],
                "layer 0: a device of media type \"application/octet-stream\"",
            ),
            (vec![layer(types::EROFS, &[])], "layer 0: an EROFS layer without a chunk index"),
            (vec![later], "layer 0: an EROFS layer without a chunk index"),
            (
                vec![layer("application/vnd.erofs.layer.v1+zstd", &INDEXED)],
                "layer 0: an EROFS layer without a chunk index",
            ),
            (vec![no_digest], "layer 0: a chunk index without a digest in the manifest"),
        ] {
            assert_eq!(refusal(layers), format!("{expected}, which is not supported yet"));
        }
    }

    #[test]
    fn what_is_no_manifest_is_a_document_error() {
        for text in ["", "{", "[]", "{}", r#"{"schemaVersion":2}"#, "\u{0}"] {
            let error =
                Composition::read(text.as_bytes(), &sha256(text.as_bytes())).expect_err("no manifest");
            assert!(matches!(error, Error::Document { .. }), "{text:?}: {error}");
        }
    }

    #[test]
    fn an_artifact_is_no_image() {
        let manifest = canonical(&ManifestDocument::new(layer(types::CONFIG, &[]), vec![root()]));
        let text = String::from_utf8(manifest).expect("JSON is UTF-8");
        let artifact = text.replace(r#""schemaVersion":2"#, r#""schemaVersion":2,"artifactType":"a/b""#);
        let error = Composition::read(artifact.as_bytes(), &sha256(b"")).expect_err("refused");
        assert!(matches!(error, Error::Unsupported { what: Unsupported::ArtifactType(_), .. }), "{error}");
        let version = text.replace(r#""schemaVersion":2"#, r#""schemaVersion":1"#);
        let error = Composition::read(version.as_bytes(), &sha256(b"")).expect_err("refused");
        assert!(error.to_string().ends_with("schema version 1 instead of 2"), "{error}");
    }
}
