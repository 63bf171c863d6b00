//! [`Base`]: an image of a layout whose data new images may refer to.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{io, thread};

use bytes::Bytes;
use larder_erofs::writer::Dictionary;
use larder_erofs::{DeviceId, Image, PhysicalAddr};
use larder_fscache::ObjectRange;
use oci_spec::image::Descriptor;

use super::DedupSource;
use super::layer::DeviceLayer;
use crate::manifest::{Composition, IndexPlace, LayerPlan};
use crate::repository::blob_path;
use crate::{ChunkTable, Error, Layer, LayoutRepository, LoadedImage, load};

/// Base-2 logarithm of the unit of deduplication: files are cut into pieces of this size from their beginning, and two
/// images find each other's data only if both are cut alike.
pub(super) const DEDUP_BITS: u8 = 16;

/// An image that has been read as a dictionary.
pub(super) struct Base {
    dir: PathBuf,
    devices: Vec<LayerPlan>,
}

impl Base {
    /// Reads all data of an image, every chunk checked, and returns what it has by content.
    pub fn open(source: &DedupSource) -> Result<(Self, Dictionary), Error> {
        let image = load_blocking(source)?;
        let composition = Composition::read(&image.manifest, &image.manifest_digest)?;
        let metadata = LayerReader::open(&source.dir, &image.metadata)?.read_all()?;
        let erofs = Image::open(metadata).map_err(Error::erofs)?;
        image.check_devices(&erofs)?;
        let mut readers = image
            .devices
            .iter()
            .map(|layer| LayerReader::open(&source.dir, layer))
            .collect::<Result<Vec<_>, _>>()?;
        let mut read_device = |device: DeviceId, at: PhysicalAddr, buf: &mut [u8]| {
            let reader = device.slot().and_then(|slot| readers.get_mut(slot));
            let reader = reader.ok_or_else(|| io::Error::other("no such device"))?;
            reader.read(at.get(), buf).map_err(|error| io::Error::other(error).into())
        };
        let dictionary =
            Dictionary::from_image(&erofs, DEDUP_BITS, &mut read_device).map_err(Error::erofs)?;
        Ok((Self { dir: source.dir.clone(), devices: composition.devices }, dictionary))
    }

    /// The directory of the layout.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Device `n` of the image, from 0, as a layer of another image.
    pub fn device(&self, n: usize) -> Option<DeviceLayer> {
        let LayerPlan { descriptor, index, .. } = self.devices.get(n)?;
        let index = match index {
            IndexPlace::Embedded { .. } => None,
            IndexPlace::Standalone(index) => Some(Descriptor::clone(index)),
        };
        Some(DeviceLayer { descriptor: descriptor.clone(), index })
    }
}

/// Loads on a thread of its own, so that it does not matter where a build runs.
fn load_blocking(source: &DedupSource) -> Result<LoadedImage, Error> {
    let work = || {
        let repository = LayoutRepository::open(&source.dir)?;
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.map_err(|error| failed(&source.dir, error))?;
        runtime.block_on(load(&repository, &source.version))
    };
    let loaded = thread::scope(|scope| scope.spawn(work).join());
    loaded.unwrap_or_else(|_| Err(failed(&source.dir, io::Error::other("the thread that read it stopped"))))
}

fn failed(path: &Path, source: io::Error) -> Error {
    Error::Io { path: path.to_owned(), action: "read", source }
}

/// Reads the decoded bytes of a layer that is a local file. Remembers the last chunk: most reads go on where the one
/// before stopped.
struct LayerReader {
    path: PathBuf,
    file: File,
    table: Arc<ChunkTable>,
    last: Option<(u32, Bytes)>,
}

impl LayerReader {
    fn open(dir: &Path, layer: &Layer) -> Result<Self, Error> {
        let path = blob_path(dir, layer.descriptor.digest());
        let file = File::open(&path).map_err(|source| failed(&path, source))?;
        Ok(Self { path, file, table: Arc::clone(&layer.table), last: None })
    }

    fn read_all(&mut self) -> Result<Vec<u8>, Error> {
        let mut all = Vec::new();
        for n in 0..self.table.len() {
            all.extend_from_slice(&self.chunk(n)?);
        }
        Ok(all)
    }

    fn read(&mut self, at: u64, buf: &mut [u8]) -> Result<(), Error> {
        let want = ObjectRange::at(at, buf.len() as u64);
        if want.end() > self.table.decoded_size() {
            return Err(failed(&self.path, io::ErrorKind::UnexpectedEof.into()));
        }
        let mut rest = buf;
        for n in self.table.covering(want) {
            let decoded = self.table.chunk(n).decoded;
            let chunk = self.chunk(n)?;
            // What of the chunk is wanted; lengths of chunks and buffers are lengths of memory.
            let from = usize::try_from(want.start().saturating_sub(decoded.start())).unwrap_or(usize::MAX);
            let wanted = chunk.get(from..).unwrap_or_default();
            let len = wanted.len().min(rest.len());
            let (now, later) = rest.split_at_mut(len);
            now.copy_from_slice(&wanted[..len]);
            rest = later;
        }
        Ok(())
    }

    fn chunk(&mut self, n: u32) -> Result<Bytes, Error> {
        if let Some((last, bytes)) = &self.last
            && *last == n
        {
            return Ok(bytes.clone());
        }
        let chunk = self.table.chunk(n);
        let len = usize::try_from(chunk.stored.len()).unwrap_or(usize::MAX);
        let mut stored = vec![0; len];
        let read = self.file.read_exact_at(&mut stored, chunk.stored.start());
        read.map_err(|source| failed(&self.path, source))?;
        let decoded = chunk.decode(chunk.verify(stored.into())?)?;
        self.last = Some((n, decoded.clone()));
        Ok(decoded)
    }
}
