//! [`load`]: from the name of an image to everything that is needed to read it, in two serial round trips.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, future, stream};
use larder_fscache::BlockSize;
use larder_remote::{BlobRange, RangeSource};
use oci_spec::image::{Descriptor, Digest};

use crate::chunk::{
    ChunkIndex, ChunkTable, Encoding, INDEX_BYTES_MAX, IndexFault, LayerFacts, split_skippable,
};
use crate::manifest::{
    CONTENTS_FILE, Composition, DOCUMENT_BYTES_MAX, DeviceFault, IndexDocument, IndexPlace, LayerPlan,
    Unsupported, host_architecture, keys,
};
use crate::{Error, Repository, Version, digest};

/// Requests for chunk indexes that run side by side.
const REQUESTS_MAX: usize = 16;

/// Largest sum of all chunk indexes of one image: a manifest cannot ask for more memory than this.
const ALL_INDEXES_BYTES_MAX: u64 = 4 * INDEX_BYTES_MAX;

/// An image that can be read: every byte of it can be found, and checked.
#[derive(Clone)]
pub struct LoadedImage {
    /// SHA-256 of the manifest: what the image is.
    pub manifest_digest: Digest,
    /// The manifest as it came.
    pub manifest: Bytes,
    /// The image configuration as it came, verified by its digest.
    pub config: Bytes,
    /// The EROFS image.
    pub metadata: Layer,
    /// Its devices: the first one is device 1.
    pub devices: Vec<Layer>,
    /// Sum of the stored sizes of all layers, each blob counted once.
    pub image_bytes: u64,
}

/// One layer of an image that can be read.
#[derive(Clone)]
pub struct Layer {
    /// Its descriptor.
    pub descriptor: Descriptor,
    /// Where its decoded bytes are in the blob.
    pub table: Arc<ChunkTable>,
    /// The blob.
    pub source: Arc<dyn RangeSource>,
}

impl Layer {
    /// Whether its data are said to be the contents of one file. A claim: what counts is what the metadata say.
    pub fn is_one_file(&self) -> bool {
        let annotations = self.descriptor.annotations().as_ref();
        annotations.and_then(|all| all.get(keys::CONTENTS)).is_some_and(|value| value == CONTENTS_FILE)
    }
}

impl LoadedImage {
    /// The metadata layer, then the devices.
    pub fn layers(&self) -> impl Iterator<Item = &Layer> {
        std::iter::once(&self.metadata).chain(&self.devices)
    }

    /// Checks that `erofs`, the image in the metadata layer, has the devices of the manifest in the same order.
    ///
    /// A device whose tag is no SHA-256 in hex is taken on trust: the order of the manifest is what binds.
    ///
    /// # Errors
    ///
    /// [`Error::Devices`].
    pub fn check_devices(&self, erofs: &larder_erofs::Image) -> Result<(), Error> {
        let (expected, found) = (self.devices.len(), erofs.devices().len());
        let fault = if expected != found {
            Some(DeviceFault::Count { expected, found })
        } else {
            let pairs = self.devices.iter().zip(erofs.devices());
            (1..).zip(pairs).find_map(|(device, (layer, slot))| {
                let (expected, found) = (layer.descriptor.digest().digest(), slot.tag.text());
                let is_digest = found.len() == 64 && found.iter().all(u8::is_ascii_hexdigit);
                (is_digest && found != expected.as_bytes()).then(|| DeviceFault::Tag {
                    device,
                    expected: expected.to_owned(),
                    found: String::from_utf8_lossy(found).into_owned(),
                })
            })
        };
        match fault {
            Some(fault) => Err(Error::Devices { manifest: self.manifest_digest.clone(), fault }),
            None => Ok(()),
        }
    }
}

impl std::fmt::Debug for LoadedImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadedImage")
            .field("manifest_digest", &self.manifest_digest)
            .field("metadata", &self.metadata)
            .field("devices", &self.devices)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Layer").field("digest", self.descriptor.digest()).finish_non_exhaustive()
    }
}

/// Loads the image called `version` from `repository`: the manifest, then configuration and chunk indexes side by
/// side. Everything is verified by the manifest's digest; that of a tag is the one that came.
///
/// # Errors
///
/// Any [`Error`] but those of chunks and builds.
pub async fn load(repository: &dyn Repository, version: &Version) -> Result<LoadedImage, Error> {
    let (manifest_digest, manifest) = resolve(repository, version).await?;
    let composition = Composition::read(&manifest, &manifest_digest)?;
    check_index_sizes(&composition)?;
    // Made before the stream is: a closure over the repository inside it would keep this future from being `Send`.
    let indexes: Vec<_> = composition.layers().map(|plan| fetch_index(repository, plan)).collect();
    let indexes = stream::iter(indexes).buffered(REQUESTS_MAX).try_collect::<Vec<_>>();
    let (config, payloads) = future::try_join(fetch_config(repository, &composition.config), indexes).await?;
    let tables = bind(&composition, payloads)?;
    assemble(repository, Parts { manifest_digest, manifest, config, tables }).await
}

/// What an image is put together from.
pub(crate) struct Parts {
    pub manifest_digest: Digest,
    pub manifest: Bytes,
    pub config: Bytes,
    /// The layers in the order of [`Composition::layers`].
    pub tables: Vec<(Descriptor, Arc<ChunkTable>)>,
}

/// Binds every index to its layer; `payloads` are theirs in the order of [`Composition::layers`], verified.
pub(crate) fn bind(
    composition: &Composition,
    payloads: Vec<Bytes>,
) -> Result<Vec<(Descriptor, Arc<ChunkTable>)>, Error> {
    composition.layers().zip(payloads).map(|(plan, payload)| bind_one(plan, payload)).collect()
}

/// Opens the blobs.
pub(crate) async fn assemble(repository: &dyn Repository, parts: Parts) -> Result<LoadedImage, Error> {
    let Parts { manifest_digest, manifest, config, tables } = parts;
    let mut layers = Vec::with_capacity(tables.len());
    for (descriptor, table) in tables {
        let source = repository.blob(&descriptor).await?;
        layers.push(Layer { descriptor, table, source });
    }
    let metadata = layers.remove(0);
    check_alignment(&layers, &manifest_digest)?;
    let mut image =
        LoadedImage { manifest_digest, manifest, config, metadata, devices: layers, image_bytes: 0 };
    image.image_bytes = stored_bytes(&image);
    Ok(image)
}

fn bind_one(plan: &LayerPlan, payload: Bytes) -> Result<(Descriptor, Arc<ChunkTable>), Error> {
    let blob = plan.descriptor.digest();
    let facts = LayerFacts { blob, encoding: plan.encoding, data_end: plan.data_end() };
    let table = ChunkIndex::parse(payload).and_then(|index| ChunkTable::bind(index, facts));
    let table = table.map_err(|fault| Error::Index { blob: blob.clone(), fault })?;
    Ok((plan.descriptor.clone(), Arc::new(table)))
}

/// The cache marks whole blocks, so that a chunk must not end inside one that another chunk shares. The metadata layer
/// is fetched as a whole and may do so.
fn check_alignment(devices: &[Layer], manifest: &Digest) -> Result<(), Error> {
    let unaligned = devices.iter().position(|layer| !layer.table.is_aligned_to(BlockSize::FOUR_KIB));
    match unaligned {
        Some(device) => {
            let what = Unsupported::ChunkAlignment { device: device + 1 };
            Err(Error::Unsupported { manifest: manifest.clone(), what })
        }
        None => Ok(()),
    }
}

fn stored_bytes(image: &LoadedImage) -> u64 {
    let mut blobs: Vec<_> =
        image.layers().map(|layer| (layer.descriptor.digest().as_ref(), layer.descriptor.size())).collect();
    blobs.sort_unstable();
    blobs.dedup_by_key(|(digest, _)| *digest);
    blobs.into_iter().fold(0, |sum, (_, size)| sum.saturating_add(size))
}

/// Fetches the manifest called `version`; behind an index of platforms, the one for this host.
async fn resolve(repository: &dyn Repository, version: &Version) -> Result<(Digest, Bytes), Error> {
    let (digest, bytes) = fetch_document(repository, version).await?;
    let place = || format!("{}: {digest}", repository.describe());
    let is_index = serde_json::from_slice::<Sniff>(&bytes)
        .map_err(|source| Error::Document { place: place(), source })?
        .is_index();
    if !is_index {
        return Ok((digest, bytes));
    }
    let index: IndexDocument =
        serde_json::from_slice(&bytes).map_err(|source| Error::Document { place: place(), source })?;
    let wanted = host_architecture();
    let Some(entry) = index.for_host(wanted) else {
        let platforms = index.manifests.iter().filter_map(|entry| entry.platform.as_ref());
        let known = platforms.map(crate::manifest::Platform::describe).collect();
        return Err(Error::NoSuchPlatform { place: place(), wanted: format!("linux/{wanted}"), known });
    };
    fetch_document(repository, &Version::Digest(entry.digest.clone())).await
}

/// Fetches one document, checked against the digest where that is its name.
async fn fetch_document(repository: &dyn Repository, version: &Version) -> Result<(Digest, Bytes), Error> {
    let bytes = repository.manifest(version).await?;
    let place = || format!("{}: manifest {version}", repository.describe());
    let found = bytes.len() as u64;
    if found > DOCUMENT_BYTES_MAX {
        return Err(Error::TooLong { place: place(), found, limit: DOCUMENT_BYTES_MAX });
    }
    if let Version::Digest(expected) = version {
        digest::verify(&bytes, expected, &place())?;
    }
    Ok((digest::sha256(&bytes), bytes))
}

/// The fields that tell a manifest from an index of manifests.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sniff {
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
}

impl Sniff {
    fn is_index(&self) -> bool {
        use crate::manifest::types::{DOCKER_LIST, INDEX};
        self.manifests.is_some()
            || self.media_type.as_deref().is_some_and(|kind| [INDEX, DOCKER_LIST].contains(&kind))
    }
}

async fn fetch_config(repository: &dyn Repository, descriptor: &Descriptor) -> Result<Bytes, Error> {
    let place = format!("configuration {}", descriptor.digest());
    if descriptor.size() > DOCUMENT_BYTES_MAX {
        return Err(Error::TooLong { place, found: descriptor.size(), limit: DOCUMENT_BYTES_MAX });
    }
    let whole = BlobRange::at(0, descriptor.size()).expect("a range from 0 does not overflow");
    let bytes = read(&*repository.blob(descriptor).await?, whole, &place).await?;
    digest::verify(&bytes, descriptor.digest(), &place)?;
    Ok(bytes)
}

fn check_index_sizes(composition: &Composition) -> Result<(), Error> {
    let mut sum = 0_u64;
    for plan in composition.layers() {
        let found = plan.index_bytes();
        if found > INDEX_BYTES_MAX + crate::chunk::SKIPPABLE_HEADER_BYTES {
            let fault = IndexFault::TooLong { found };
            return Err(Error::Index { blob: plan.descriptor.digest().clone(), fault });
        }
        sum += found;
    }
    if sum > ALL_INDEXES_BYTES_MAX {
        let place = "all chunk indexes together".to_owned();
        return Err(Error::TooLong { place, found: sum, limit: ALL_INDEXES_BYTES_MAX });
    }
    Ok(())
}

/// Fetches the payload of a layer's chunk index and checks its digest.
async fn fetch_index(repository: &dyn Repository, plan: &LayerPlan) -> Result<Bytes, Error> {
    let blob = plan.descriptor.digest();
    let place = format!("layer {blob}: chunk index");
    let payload = match &plan.index {
        IndexPlace::Embedded { range, .. } => {
            let stored = read(&*repository.blob(&plan.descriptor).await?, *range, &place).await?;
            unframe(stored, plan.encoding).map_err(|fault| Error::Index { blob: blob.clone(), fault })?
        }
        IndexPlace::Standalone(descriptor) => {
            let whole = BlobRange::at(0, descriptor.size()).expect("a range from 0 does not overflow");
            read(&*repository.blob(descriptor).await?, whole, &place).await?
        }
    };
    digest::verify(&payload, plan.index_digest(), &place)?;
    Ok(payload)
}

/// Takes the skippable frame off the index of a zstd layer.
fn unframe(stored: Bytes, encoding: Encoding) -> Result<Bytes, IndexFault> {
    match encoding {
        Encoding::Raw => Ok(stored),
        Encoding::Zstd => match split_skippable(&stored) {
            Some((payload, [])) => Ok(stored.slice_ref(payload)),
            _ => Err(IndexFault::Frame),
        },
    }
}

/// Reads a range and insists on its length.
pub(crate) async fn read(source: &dyn RangeSource, range: BlobRange, place: &str) -> Result<Bytes, Error> {
    let bytes = source.read_range(range).await;
    let bytes = bytes.map_err(|source| Error::remote(place, source))?;
    let (expected, found) = (range.len(), bytes.len() as u64);
    if expected == found {
        Ok(bytes)
    } else {
        Err(Error::Length { place: place.to_owned(), expected, found })
    }
}
