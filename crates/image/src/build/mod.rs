//! Building: a tree of files, or a tar archive, becomes an image in an OCI image layout.
//!
//! The file data goes into one blob, cut into chunks, or for large files into blobs of their own where that is asked for,
//! and everything else into a metadata blob. Whatever is written
//! lies beside its destination until the image is complete. The same tree and options give the same bytes on every
//! machine, with any number of threads; memory is bounded whatever the size of the tree's data.

mod blobs;
mod destination;
mod dictionary;
mod layer;
mod options;
mod pack;
mod worker;

use std::collections::BTreeMap;
use std::io::Read;
use std::num::NonZero;
use std::path::Path;

use larder_erofs::DeviceTag;
use larder_erofs::writer::{
    self, BlobSink as _, DataDevice, Summary, TarOptions, Tree, WrittenData, write_data, write_data_from_tar,
};
use oci_spec::image::Digest;

use self::blobs::{Blobs, PackedBlobs};
use self::destination::Destination;
use self::dictionary::{Base, DEDUP_BITS};
use self::options::METADATA_CHUNK_BYTES;
use self::pack::{PackOptions, PackedBlob, Packer};
use crate::Error;
use crate::manifest::{
    ConfigDocument, DescriptorDocument, ManifestDocument, ManifestEntry, Platform, Role, canonical, keys,
    types,
};

pub use self::destination::is_staging;
pub use self::options::{BuildOptions, Compression, DedupSource};

/// What was built.
#[derive(Clone, Debug)]
pub struct BuildReport {
    /// SHA-256 of the manifest: what the image is.
    pub manifest_digest: Digest,
    /// The blob with the file data, unless every byte of it was found elsewhere.
    pub data: Option<BuiltLayer>,
    /// Blobs of single files, in the order of the image's devices.
    pub files: Vec<BuiltLayer>,
    /// The EROFS image.
    pub metadata: BuiltLayer,
    /// Devices that were taken over from other images.
    pub devices_shared: usize,
    /// Inodes of the image.
    pub inodes: u64,
    /// Bytes of file contents, holes and duplicates included.
    pub file_bytes: u64,
    /// Bytes not stored because the image has them already.
    pub deduplicated_bytes: u64,
    /// Bytes not stored because another image has them.
    pub dictionary_bytes: u64,
}

/// One blob that was built.
#[derive(Clone, Debug)]
pub struct BuiltLayer {
    /// SHA-256 of the blob.
    pub digest: Digest,
    /// Its length.
    pub stored_bytes: u64,
    /// Length of its data before compression.
    pub decoded_bytes: u64,
    /// Number of chunks.
    pub chunks: u32,
}

/// Builds an image of `tree` into the OCI image layout `out_dir`, under the tag of the options.
///
/// A layout that is there already gets a further image, or another one under that tag; what else it has stays. Blocks
/// until the image is complete. Not synced to disk.
///
/// # Errors
///
/// [`Error::Destination`] when `out_dir` is something else than a layout, [`Error::Option`], [`Error::Erofs`] when the
/// tree cannot be read, [`Error::Io`]. Nothing is left then but what was there before.
pub fn build(tree: Tree, options: &BuildOptions<'_>, out_dir: &Path) -> Result<BuildReport, Error> {
    build_from(|options, blobs| write_data(tree, options, blobs), options, out_dir)
}

/// Builds an image of a tar archive, which is read from front to back and never unpacked to disk.
///
/// As [`build`]: the image shows what unpacking the archive would have shown. `archive` is not compressed; see
/// [`decode_archive`](larder_erofs::writer::decode_archive).
///
/// # Errors
///
/// Those of [`build`]; [`Error::Erofs`] when the archive is damaged or cannot be read.
pub fn build_from_tar(
    archive: impl Read + Send,
    tar: &TarOptions<'_>,
    options: &BuildOptions<'_>,
    out_dir: &Path,
) -> Result<BuildReport, Error> {
    build_from(|options, blobs| write_data_from_tar(archive, tar, options, blobs), options, out_dir)
}

/// Builds an image whose data blobs are what `write` makes.
fn build_from(
    write: impl FnOnce(&writer::Options<'_>, &mut Blobs<'_>) -> Result<WrittenData, larder_erofs::Error>,
    options: &BuildOptions<'_>,
    out_dir: &Path,
) -> Result<BuildReport, Error> {
    options.check()?;
    let destination = Destination::open(out_dir)?;
    let mut bases = Vec::new();
    let mut dictionaries = Vec::new();
    for source in &options.dedup_against {
        let (base, dictionary) = Base::open(source)?;
        bases.push(base);
        dictionaries.push(dictionary);
    }
    let job = Job { options, destination, bases };
    let (written, data) = job.pack_data(write, dictionaries)?;
    let devices = job.devices(&written, &data)?;
    let (summary, metadata) = job.pack_metadata(&written, &devices)?;
    drop(written);
    let mut layers: Vec<_> = devices.iter().flat_map(|device| device.layers.iter().cloned()).collect();
    layers.push(metadata.describe(Role::FileSystem));
    let manifest_digest = job.publish(layers)?;
    Ok(BuildReport {
        manifest_digest,
        devices_shared: devices.iter().filter(|device| device.is_shared).count(),
        data: data.shared.as_ref().map(BuiltLayer::of),
        files: data.own.iter().flatten().map(BuiltLayer::of).collect(),
        metadata: BuiltLayer::of(&metadata),
        inodes: summary.inodes,
        file_bytes: summary.file_bytes,
        deduplicated_bytes: summary.deduplicated_bytes,
        dictionary_bytes: summary.dictionary_bytes,
    })
}

impl BuiltLayer {
    fn of(blob: &PackedBlob) -> Self {
        Self {
            digest: blob.digest.clone(),
            stored_bytes: blob.size,
            decoded_bytes: blob.index.decoded_size(),
            chunks: blob.index.count(),
        }
    }
}

/// A build under way.
struct Job<'a> {
    options: &'a BuildOptions<'a>,
    destination: Destination,
    bases: Vec<Base>,
}

/// A device of the new image: its layer, and the index that belongs to it where it is a layer too.
struct Device {
    tag: DeviceTag,
    layers: Vec<DescriptorDocument>,
    /// Whether it was taken over from another image.
    is_shared: bool,
}

impl Device {
    fn new(layer: DescriptorDocument) -> Self {
        Self { tag: tag_of(&layer.digest), layers: vec![layer], is_shared: false }
    }
}

impl Job<'_> {
    /// Writes the data blobs.
    fn pack_data(
        &self,
        write: impl FnOnce(&writer::Options<'_>, &mut Blobs<'_>) -> Result<WrittenData, larder_erofs::Error>,
        dictionaries: Vec<writer::Dictionary>,
    ) -> Result<(WrittenData, PackedBlobs), Error> {
        let options = writer::Options {
            chunk_bits: DEDUP_BITS,
            timestamp: self.options.timestamp,
            jobs: self.options.jobs,
            dictionaries,
            own_blob_bytes: self.options.own_blob_bytes,
            progress: self.options.progress,
            ..writer::Options::default()
        };
        let chunk_bytes = NonZero::<usize>::try_from(self.options.chunk_bytes).map_err(|_| {
            Error::Option { option: "chunk size", value: String::new(), reason: "it is too large" }
        })?;
        let mut blobs = Blobs::new(&self.destination, self.pack_options(chunk_bytes))?;
        let written = write(&options, &mut blobs).map_err(Error::erofs)?;
        let packed = blobs.finish(written.devices())?;
        Ok((written, packed))
    }

    fn pack_options(&self, chunk_bytes: NonZero<usize>) -> PackOptions {
        let &BuildOptions { compression, chunk_hash, jobs, .. } = self.options;
        PackOptions { chunk_bytes, compression, chunk_hash, jobs }
    }

    fn pack_metadata(
        &self,
        written: &WrittenData,
        devices: &[Device],
    ) -> Result<(Summary, PackedBlob), Error> {
        let tags: Vec<_> = devices.iter().map(|device| device.tag).collect();
        let (staged, file) = self.destination.create_blob("metadata")?;
        let pack_failed = |source| Error::Pack { what: "metadata", source };
        let mut packer = Packer::new(file, self.pack_options(METADATA_CHUNK_BYTES)).map_err(pack_failed)?;
        let summary = written.write_metadata(&tags, &mut PackWriter(&mut packer)).map_err(Error::erofs)?;
        let blob = packer.finish().map_err(pack_failed)?;
        self.destination.add_blob(staged, &blob.digest)?;
        Ok((summary, blob))
    }

    /// Lists the devices in the order in which the image counts them, with every blob in place.
    fn devices(&self, written: &WrittenData, data: &PackedBlobs) -> Result<Vec<Device>, Error> {
        let written_blob = |blob: Option<&PackedBlob>| {
            blob.expect("a blob that the image refers to was written").describe(Role::Device)
        };
        let describe = |device: &DataDevice| match *device {
            DataDevice::Blob { .. } => Ok(Device::new(written_blob(data.shared.as_ref()))),
            DataDevice::Own { number, .. } => {
                Ok(Device::new(layer::of_file(written_blob(data.own[number].as_ref()))))
            }
            DataDevice::Dictionary { dictionary, device, .. } => self.shared_device(dictionary, device),
        };
        written.devices().iter().map(describe).collect()
    }

    fn shared_device(&self, base: usize, device: usize) -> Result<Device, Error> {
        let base = &self.bases[base];
        let shared = base.device(device).expect("a dictionary has the devices of its image");
        let mut layers = Vec::new();
        for descriptor in std::iter::once(&shared.descriptor).chain(&shared.index) {
            self.destination.take_blob(base.dir(), descriptor.digest())?;
            layers.push(layer::rewrite(descriptor));
        }
        Ok(Device { tag: tag_of(shared.descriptor.digest()), layers, is_shared: true })
    }

    /// Writes configuration and manifest, and makes the image visible.
    fn publish(self, layers: Vec<DescriptorDocument>) -> Result<Digest, Error> {
        let architecture = self.options.architecture();
        // Without the DiffIDs of all layers the list is left out, as the specification has it.
        let diff_ids = layers.iter().map(layer::diff_id).collect();
        let config = canonical(&ConfigDocument::new(architecture, self.options.timestamp, diff_ids));
        let config = DescriptorDocument {
            media_type: types::CONFIG.to_owned(),
            digest: self.destination.add_document(&config)?,
            size: config.len() as u64,
            annotations: BTreeMap::new(),
        };
        let manifest = canonical(&ManifestDocument::new(config, layers));
        let digest = self.destination.add_document(&manifest)?;
        self.destination.publish(ManifestEntry {
            media_type: types::MANIFEST.to_owned(),
            digest: digest.clone(),
            size: manifest.len() as u64,
            platform: Some(Platform::erofs_on(architecture)),
            annotations: BTreeMap::from([(keys::REF_NAME.to_owned(), self.options.tag.clone())]),
            rest: BTreeMap::new(),
        })?;
        Ok(digest)
    }
}

/// What the device table calls a blob.
fn tag_of(digest: &Digest) -> DeviceTag {
    DeviceTag::new(digest.digest().as_bytes()).expect("a SHA-256 has 64 digits, and a tag room for them")
}

/// A packer that is written to.
struct PackWriter<'a>(&'a mut Packer);

impl std::io::Write for PackWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
