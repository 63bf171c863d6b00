//! [`write_data`] and [`write_data_from_tar`]: the first phase, from files to a blob and the places of their chunks.

use std::io::Read;

use sha2::{Digest, Sha256};

use super::dedup::{ChunkKey, ChunkTable};
use super::image::{IndexRules, Metabox, Place, Records};
use super::node::NodeId;
use super::options::{Geometry, Options};
use super::order::order;
use super::own::{self, ArchiveOwn, OwnBlobs, OwnContents, OwnDevice};
use super::pipeline;
use super::plan::Planner;
use super::reader::{self, Batch, Chunk, ChunkContent};
use super::recipe::Recipe;
use super::runs::{BlockRef, FileRuns, Target};
use super::sink::BlobSink;
use super::tar::{Adder, Entries, TarBatches, TarOptions};
use super::text::index;
use super::tree::Tree;
use super::{Dictionary, DictionaryDevice};
use crate::{BlockSize, DeviceSlot, Error, FileType};

/// A device that the image needs, in the order of the ids it will have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DataDevice {
    /// The blob that was written.
    Blob {
        /// Its length.
        bytes: u64,
    },
    /// A device of a dictionary.
    Dictionary {
        /// Index into [`Options::dictionaries`].
        dictionary: usize,
        /// Index into [`Dictionary::devices`].
        device: usize,
        /// What that dictionary says of it.
        slot: DictionaryDevice,
    },
    /// A blob that one file has of its own, or several with the same contents.
    Own {
        /// Its number among those that were kept, in the order in which they were written.
        number: usize,
        /// Its length: that of the file, not rounded up. The image reads only whole blocks of it.
        bytes: u64,
    },
}

impl DataDevice {
    /// Its length in blocks.
    pub(super) fn blocks(&self, block: BlockSize) -> u64 {
        match self {
            Self::Blob { bytes } => block.blocks(*bytes),
            // What it has of a last block is read elsewhere.
            Self::Own { bytes, .. } => bytes >> block.bits(),
            Self::Dictionary { slot, .. } => slot.blocks,
        }
    }
}

/// What the first phase leaves: all that the metadata image needs.
#[derive(Debug)]
pub struct WrittenData {
    pub(super) tree: Tree,
    pub(super) order: Vec<NodeId>,
    /// Index of each node's runs; `NO_FILE` for what has none.
    pub(super) file_of: Vec<u32>,
    pub(super) runs: FileRuns,
    /// Where the contents of each file went; empty when all are in chunks, as `runs` has them.
    pub(super) places: Vec<Place>,
    pub(super) index_rules: IndexRules,
    pub(super) geometry: Geometry,
    pub(super) recipe: Recipe,
    /// The packed inode, which has no name.
    pub(super) packed: Option<NodeId>,
    /// The metabox, once it is written: then only what is outside of it is left.
    pub(super) metabox: Option<Metabox>,
    pub(super) devices: Vec<DataDevice>,
    /// Devices of layers that the image refers to, by the writer's numbering from 1; `None` for those that are not
    /// needed. Where they lie in the unified address space is only known when all else is.
    pub(super) layer_devices: Vec<Option<DeviceSlot>>,
    /// Id in the image of each device in the writer's numbering; 0 for those that are not needed.
    pub(super) device_ids: Vec<u16>,
    /// Over the keys of all that was written, for the image's UUID.
    pub(super) content: [u8; 32],
    pub(super) totals: Totals,
}

/// Marks a node without runs.
pub(super) const NO_FILE: u32 = u32::MAX;

/// What became of the bytes of the files.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    pub file_bytes: u64,
    pub blob_bytes: u64,
    pub deduplicated_bytes: u64,
    pub dictionary_bytes: u64,
}

/// Reads the files of `tree` and writes their data to `blob`.
///
/// A content that was seen before, here or in a dictionary, is not written again; neither are zeros. Each
/// file begins at a block boundary. Files with [blobs of their own](Options::own_blob_bytes) are written there, zeros
/// and all; nothing else refers to these, except for files with the same contents. Blocks on `blob` and on the file
/// systems read from.
///
/// # Errors
///
/// [`Error::Scan`] names a file that could not be read, [`Error::Changed`] one that is not what it was when it
/// was added; [`Error::WriteBlob`]; and when the options do not go together.
pub fn write_data(tree: Tree, options: &Options<'_>, blob: &mut dyn BlobSink) -> Result<WrittenData, Error> {
    let geometry = checked(options)?;
    let order = order(&tree);
    let has_data = |&&id: &&NodeId| {
        let node = &tree.nodes[index(id)];
        node.kind == FileType::Regular && node.size > 0
    };
    let files: Vec<NodeId> = order.iter().filter(has_data).copied().collect();

    let size = |file: usize| tree.nodes[index(files[file])].size;
    let mut emitter = Emitter::new(&size, geometry, options, blob);
    let worker =
        || -> pipeline::Worker<'_, Batch> { Box::new(|batch| reader::read(&tree, &files, geometry, batch)) };
    let own = own::of_tree(&tree, &files, options.own_blob_bytes, geometry)?;
    let planner = Planner::new(&tree, &files, geometry, &own);
    pipeline::run(planner, options.jobs.get(), &worker, &mut |batch| emitter.take(batch))?;
    let emitted = emitter.finish(files.len())?;
    written(tree, order, &files, geometry, options, emitted)
}

/// Reads a tar archive from front to back and writes the data of its files to `blob`, in the order of the archive.
///
/// As [`write_data`] does with those of a tree: the image shows the same files as if the archive had been unpacked and
/// read again. Only where their data lie in the blob follows the archive. What comes later under a name counts; data of
/// what was before it are in the blob nevertheless. Nothing is unpacked to disk.
///
/// # Errors
///
/// [`Error::Tar`] and [`Error::ReadTar`] for an archive that is damaged or cannot be read, [`Error::SparseClaims`] when
/// sparse files claim too many holes, 2^22 chunks in all and one more for each 32 bytes read, [`Error::WriteBlob`]; and when the options do not go together.
///
/// # Examples
///
/// ```
/// use larder_erofs::writer::{Options, TarOptions, write_data_from_tar};
///
/// // An archive with nothing in it ends with two blocks of zeros.
/// let archive = [0; 1024];
/// let mut blob = Vec::new();
/// let data = write_data_from_tar(&archive[..], &TarOptions::default(), &Options::default(), &mut blob)?;
/// assert!(blob.is_empty() && data.devices().is_empty());
/// # Ok::<(), larder_erofs::Error>(())
/// ```
pub fn write_data_from_tar<R: Read + Send>(
    archive: R,
    tar: &TarOptions<'_>,
    options: &Options<'_>,
    blob: &mut dyn BlobSink,
) -> Result<WrittenData, Error> {
    let geometry = checked(options)?;
    // Each file's last chunk comes, so nothing has to be filled up.
    let mut emitter = Emitter::new(&|_| 0, geometry, options, blob);
    let worker = || -> pipeline::Worker<'_, Batch> {
        Box::new(|batch| {
            batch.cut(geometry);
            Ok(())
        })
    };
    let own = ArchiveOwn::new(options.own_blob_bytes, geometry);
    let batches = TarBatches::new(Entries::new(archive), Adder::new(Tree::new(), *tar), geometry, own);
    let batches = pipeline::run(batches, options.jobs.get(), &worker, &mut |batch| emitter.take(batch))?;
    let (tree, files) = batches.finish()?;
    let emitted = emitter.finish(files.len())?;
    let order = order(&tree);
    written(tree, order, &files, geometry, options, emitted)
}

/// Checks that the options go together.
fn checked(options: &Options<'_>) -> Result<Geometry, Error> {
    let geometry = Geometry::new(options)?;
    for dictionary in &options.dictionaries {
        if dictionary.block() != geometry.block {
            let (found, expected) = (dictionary.block().bits(), geometry.block.bits());
            return Err(Error::DictionaryBlockSize { found, expected });
        }
    }
    Ok(geometry)
}

/// What the second phase needs to know of the first.
fn written(
    tree: Tree,
    order: Vec<NodeId>,
    files: &[NodeId],
    geometry: Geometry,
    options: &Options<'_>,
    Emitted { runs, own_bytes, content, totals }: Emitted,
) -> Result<WrittenData, Error> {
    let mut file_of = vec![NO_FILE; tree.nodes.len()];
    for (file, &node) in (0..).zip(files) {
        file_of[index(node)] = file;
    }
    let first_own = own::first_device(&options.dictionaries);
    let own = own::devices(&tree, &order, (files, &runs), first_own, &own_bytes);
    let (devices, device_ids) = devices(&options.dictionaries, &runs, totals.blob_bytes, &own)?;
    Ok(WrittenData {
        tree,
        order,
        file_of,
        runs,
        places: Vec::new(),
        index_rules: IndexRules { block: geometry.block, legacy: false, records: Records::default() },
        geometry,
        recipe: Recipe::of_metadata(options.timestamp),
        packed: None,
        metabox: None,
        devices,
        layer_devices: Vec::new(),
        device_ids,
        content,
        totals,
    })
}

impl WrittenData {
    /// The devices that the image refers to, in the order in which it must be given tags and mounted.
    ///
    /// The blob comes first, if it holds anything; dictionaries' devices follow, then the blobs that files have of their
    /// own, those in use only.
    pub fn devices(&self) -> &[DataDevice] {
        &self.devices
    }
}

/// Takes batches in order, writes what is new and notes where everything lies.
struct Emitter<'a> {
    /// Size of each file.
    size: &'a dyn Fn(usize) -> u64,
    geometry: Geometry,
    dictionaries: &'a [Dictionary],
    progress: Option<&'a dyn Fn(u64)>,
    blob: &'a mut dyn BlobSink,
    known: ChunkTable,
    runs: FileRuns,
    /// Chunks of the file at hand that have a place.
    chunks_done: u64,
    next_block: u64,
    own: OwnBlobs,
    content: Sha256,
    totals: Totals,
}

impl<'a> Emitter<'a> {
    fn new(
        size: &'a dyn Fn(usize) -> u64,
        geometry: Geometry,
        options: &'a Options<'_>,
        blob: &'a mut dyn BlobSink,
    ) -> Self {
        Self {
            size,
            geometry,
            dictionaries: &options.dictionaries,
            progress: options.progress,
            blob,
            known: ChunkTable::default(),
            runs: FileRuns::default(),
            chunks_done: 0,
            next_block: 0,
            own: OwnBlobs::default(),
            content: Sha256::new(),
            totals: Totals::default(),
        }
    }

    fn take(&mut self, batch: &Batch) -> Result<(), Error> {
        // What is new and adjacent goes out in one call.
        let mut pending = 0..0;
        for chunk in &batch.chunks {
            self.go_to(index(chunk.file))?;
            self.skip_to(chunk.at >> self.geometry.chunk_bits);
            if let ChunkContent::Own(key) | ChunkContent::OwnTail(key) = chunk.content {
                self.write_own(key, &batch.buffer[chunk.offset..chunk.offset + chunk.len])?;
            }
            let target = self.place(chunk)?;
            if let Placed::New(_) = target {
                if pending.end != chunk.offset {
                    self.write(&batch.buffer[pending])?;
                    pending = chunk.offset..chunk.offset;
                }
                pending.end = (chunk.offset + chunk.len).next_multiple_of(self.geometry.block.buffer_len());
            }
            self.runs.push(1, target.target(), self.geometry.chunk_blocks());
            self.chunks_done += 1;
        }
        self.write(&batch.buffer[pending])?;
        if let Some(progress) = self.progress {
            progress(self.totals.file_bytes);
        }
        Ok(())
    }

    /// Decides where a chunk lies; a new one gets the next free block.
    fn place(&mut self, chunk: &Chunk) -> Result<Placed, Error> {
        let len = chunk.len as u64;
        self.totals.file_bytes += len;
        let (key, shared) = match chunk.content {
            ChunkContent::Zeros => return Ok(Placed::Known(Target::Hole)),
            ChunkContent::Own(_) => {
                let block = chunk.at >> self.geometry.block.bits();
                return self.own_place(self.own.bytes.len(), block).map(Placed::Known);
            }
            ChunkContent::Shared(key) => (key, true),
            ChunkContent::Whole(key) | ChunkContent::OwnTail(key) => (key, false),
        };
        if shared {
            let mut first_device = 1;
            for dictionary in self.dictionaries {
                if let Some(at) = dictionary.find(&key) {
                    let device = u16::try_from(first_device + at.device()).ok();
                    let at = device.and_then(|device| BlockRef::new(device, at.block()));
                    self.totals.dictionary_bytes += len;
                    let too_many = Error::TooLarge { what: "more than 65,535 devices" };
                    return at.map(|at| Placed::Known(Target::Data(at))).ok_or(too_many);
                }
                first_device += dictionary.devices().len();
            }
            if let Some(at) = self.known.find(&key) {
                self.totals.deduplicated_bytes += len;
                return Ok(Placed::Known(Target::Data(at)));
            }
        }
        let at = BlockRef::new(0, self.next_block);
        let at = at.ok_or(Error::TooLarge { what: "a data blob of more than 2^48 blocks" })?;
        self.next_block += self.geometry.block.blocks(len);
        self.content.update(key.bytes());
        if shared {
            self.known.remember(key, at);
        }
        Ok(Placed::New(Target::Data(at)))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.totals.blob_bytes += bytes.len() as u64;
        self.blob.write(bytes).map_err(|source| Error::WriteBlob { source })
    }

    /// Writes a chunk to the blob that its file has of its own, as long as it is: only the last one may be part of a block.
    fn write_own(&mut self, key: ChunkKey, bytes: &[u8]) -> Result<(), Error> {
        let failed = |source| Error::WriteBlob { source };
        if self.own.at_hand.is_none() {
            self.blob.begin_own().map_err(failed)?;
        }
        self.own.at_hand.get_or_insert_default().add(key, bytes.len() as u64);
        self.content.update(key.bytes());
        self.blob.write_own(bytes).map_err(failed)
    }

    /// Ends such a blob, and drops it when one before has the same bytes.
    fn end_own(&mut self, contents: OwnContents) -> Result<(), Error> {
        let bytes = contents.bytes;
        let (number, is_new) = self.own.number(contents);
        self.blob.end_own(is_new).map_err(|source| Error::WriteBlob { source })?;
        if !is_new {
            self.totals.deduplicated_bytes += own::tail_at(bytes, self.geometry).min(bytes);
            self.runs.move_first(self.own_place(number, 0)?);
        }
        Ok(())
    }

    /// A block of the blob `number` that a file has of its own; one that is being written has the next number.
    fn own_place(&self, number: usize, block: u64) -> Result<Target, Error> {
        let device = u16::try_from(own::first_device(self.dictionaries) + number).ok();
        let at = device.and_then(|device| BlockRef::new(device, block));
        at.map(Target::Data).ok_or(Error::TooLarge { what: "more than 65,535 devices" })
    }

    /// Makes `file` the file at hand; what was not read of those before it is holes.
    fn go_to(&mut self, file: usize) -> Result<(), Error> {
        while self.runs.files() <= file {
            self.end_file()?;
            self.runs.begin_file();
            self.chunks_done = 0;
        }
        Ok(())
    }

    fn end_file(&mut self) -> Result<(), Error> {
        if let Some(contents) = self.own.at_hand.take() {
            self.end_own(contents)?;
        }
        if let Some(at_hand) = self.runs.files().checked_sub(1) {
            self.skip_to((self.size)(at_hand).div_ceil(self.geometry.chunk_bytes()));
        }
        Ok(())
    }

    /// Ends the last of `files` files.
    fn finish(mut self, files: usize) -> Result<Emitted, Error> {
        if let Some(last) = files.checked_sub(1) {
            self.go_to(last)?;
        }
        self.end_file()?;
        Ok(Emitted {
            runs: self.runs,
            own_bytes: self.own.bytes,
            content: self.content.finalize().into(),
            totals: self.totals,
        })
    }

    /// Fills up the file at hand with holes, up to chunk `chunk`.
    fn skip_to(&mut self, chunk: u64) {
        let holes = chunk.saturating_sub(self.chunks_done);
        self.runs.push(holes, Target::Hole, self.geometry.chunk_blocks());
        self.chunks_done += holes;
    }
}

/// What all batches came to.
struct Emitted {
    runs: FileRuns,
    /// Lengths of the blobs that files have of their own.
    own_bytes: Vec<u64>,
    content: [u8; 32],
    totals: Totals,
}

/// Where a chunk lies, and whether it has to be written there.
#[derive(Clone, Copy)]
enum Placed {
    Known(Target),
    New(Target),
}

impl Placed {
    fn target(self) -> Target {
        match self {
            Self::Known(target) | Self::New(target) => target,
        }
    }
}

/// Lists the devices in use and gives them ids.
fn devices(
    dictionaries: &[Dictionary],
    runs: &FileRuns,
    blob_bytes: u64,
    own: &[OwnDevice],
) -> Result<(Vec<DataDevice>, Vec<u16>), Error> {
    let mut all = vec![DataDevice::Blob { bytes: blob_bytes }];
    for (dictionary, entry) in dictionaries.iter().enumerate() {
        let slots = entry.devices().iter().enumerate();
        all.extend(slots.map(|(device, &slot)| DataDevice::Dictionary { dictionary, device, slot }));
    }
    let mut used = vec![false; all.len()];
    for run in runs.all() {
        if let Target::Data(at) = run.target
            && let Some(used) = used.get_mut(at.device())
        {
            *used = true;
        }
    }
    all.extend(own.iter().enumerate().map(|(number, own)| DataDevice::Own { number, bytes: own.bytes }));
    used.extend(own.iter().map(|own| own.is_used));
    let mut ids = vec![0; all.len()];
    let mut devices = Vec::new();
    for (index, device) in all.into_iter().enumerate().filter(|&(index, _)| used[index]) {
        devices.push(device);
        let too_many = |_| Error::TooLarge { what: "more than 65,535 devices" };
        ids[index] = u16::try_from(devices.len()).map_err(too_many)?;
    }
    Ok((devices, ids))
}
