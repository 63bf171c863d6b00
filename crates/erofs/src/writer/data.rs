//! [`write_data`]: the first phase, from files to a blob and the places of their chunks.

use sha2::{Digest, Sha256};

use super::dedup::ChunkTable;
use super::image::{IndexRules, Place};
use super::node::NodeId;
use super::options::{Geometry, Options};
use super::order::order;
use super::pipeline;
use super::plan::Planner;
use super::reader::{self, Batch, Chunk, ChunkContent};
use super::recipe::Recipe;
use super::runs::{BlockRef, FileRuns, Target};
use super::sink::BlobSink;
use super::text::index;
use super::tree::Tree;
use super::{Dictionary, DictionaryDevice};
use crate::{Error, FileType};

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
    pub(super) devices: Vec<DataDevice>,
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
/// file begins at a block boundary. Blocks on `blob` and on the file systems read from.
///
/// # Errors
///
/// [`Error::Scan`] names a file that could not be read, [`Error::Changed`] one that is not what it was when it
/// was added; [`Error::WriteBlob`]; and when the options do not go together.
pub fn write_data(tree: Tree, options: &Options<'_>, blob: &mut dyn BlobSink) -> Result<WrittenData, Error> {
    let geometry = Geometry::new(options)?;
    for dictionary in &options.dictionaries {
        if dictionary.block() != geometry.block {
            let (found, expected) = (dictionary.block().bits(), geometry.block.bits());
            return Err(Error::DictionaryBlockSize { found, expected });
        }
    }
    let order = order(&tree);
    let has_data = |&&id: &&NodeId| {
        let node = &tree.nodes[index(id)];
        node.kind == FileType::Regular && node.size > 0
    };
    let files: Vec<NodeId> = order.iter().filter(has_data).copied().collect();

    let mut emitter = Emitter::new(&tree, &files, geometry, options, blob);
    let worker =
        || -> pipeline::Worker<'_, Batch> { Box::new(|batch| reader::read(&tree, &files, geometry, batch)) };
    let planner = Planner::new(&tree, &files, geometry);
    pipeline::run(planner, options.jobs.get(), &worker, &mut |batch| emitter.take(batch))?;
    emitter.go_to(files.len());
    let Emitter { runs, content, totals, .. } = emitter;

    let mut file_of = vec![NO_FILE; tree.nodes.len()];
    for (file, &node) in (0..).zip(&files) {
        file_of[index(node)] = file;
    }
    let (devices, device_ids) = devices(&options.dictionaries, &runs, totals.blob_bytes)?;
    let content = content.finalize().into();
    Ok(WrittenData {
        tree,
        order,
        file_of,
        runs,
        places: Vec::new(),
        index_rules: IndexRules { block: geometry.block, legacy: false, interlaced: false },
        geometry,
        recipe: Recipe::of_metadata(options.timestamp),
        packed: None,
        devices,
        device_ids,
        content,
        totals,
    })
}

impl WrittenData {
    /// The devices that the image refers to, in the order in which it must be given tags and mounted.
    ///
    /// The blob comes first, if it holds anything; dictionaries' devices follow, those in use only.
    pub fn devices(&self) -> &[DataDevice] {
        &self.devices
    }
}

/// Takes batches in order, writes what is new and notes where everything lies.
struct Emitter<'a> {
    tree: &'a Tree,
    files: &'a [NodeId],
    geometry: Geometry,
    dictionaries: &'a [Dictionary],
    progress: Option<&'a dyn Fn(u64)>,
    blob: &'a mut dyn BlobSink,
    known: ChunkTable,
    runs: FileRuns,
    /// Chunks of the file at hand that have a place.
    chunks_done: u64,
    next_block: u64,
    content: Sha256,
    totals: Totals,
}

impl<'a> Emitter<'a> {
    fn new(
        tree: &'a Tree,
        files: &'a [NodeId],
        geometry: Geometry,
        options: &'a Options<'_>,
        blob: &'a mut dyn BlobSink,
    ) -> Self {
        Self {
            tree,
            files,
            geometry,
            dictionaries: &options.dictionaries,
            progress: options.progress,
            blob,
            known: ChunkTable::default(),
            runs: FileRuns::default(),
            chunks_done: 0,
            next_block: 0,
            content: Sha256::new(),
            totals: Totals::default(),
        }
    }

    fn take(&mut self, batch: &Batch) -> Result<(), Error> {
        // What is new and adjacent goes out in one call.
        let mut pending = 0..0;
        for chunk in &batch.chunks {
            self.go_to(index(chunk.file));
            self.skip_to(chunk.at >> self.geometry.chunk_bits);
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
            ChunkContent::Shared(key) => (key, true),
            ChunkContent::Whole(key) => (key, false),
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
        // 32 bits of block number, of which the last means a hole.
        let at = Some(self.next_block).filter(|&block| block < u64::from(u32::MAX));
        let at = at.and_then(|block| BlockRef::new(0, block));
        let at = at.ok_or(Error::TooLarge { what: "a data blob of more than 2^32 blocks" })?;
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

    /// Makes `file` the file at hand; what was not read of those before it is holes.
    fn go_to(&mut self, file: usize) {
        while self.runs.files() <= file {
            if let Some(at_hand) = self.runs.files().checked_sub(1) {
                let size = self.tree.nodes[index(self.files[at_hand])].size;
                self.skip_to(size.div_ceil(self.geometry.chunk_bytes()));
            }
            if self.runs.files() == self.files.len() {
                return;
            }
            self.runs.begin_file();
            self.chunks_done = 0;
        }
    }

    /// Fills up the file at hand with holes, up to chunk `chunk`.
    fn skip_to(&mut self, chunk: u64) {
        let holes = chunk.saturating_sub(self.chunks_done);
        self.runs.push(holes, Target::Hole, self.geometry.chunk_blocks());
        self.chunks_done += holes;
    }
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
) -> Result<(Vec<DataDevice>, Vec<u16>), Error> {
    let mut all = vec![DataDevice::Blob { bytes: blob_bytes }];
    for (dictionary, entry) in dictionaries.iter().enumerate() {
        let slots = entry.devices().iter().enumerate();
        all.extend(slots.map(|(device, &slot)| DataDevice::Dictionary { dictionary, device, slot }));
    }
    let mut used = vec![false; all.len()];
    for run in runs.all() {
        if let Target::Data(at) = run.target {
            used[at.device()] = true;
        }
    }
    let mut ids = vec![0; all.len()];
    let mut devices = Vec::new();
    for (index, device) in all.into_iter().enumerate().filter(|&(index, _)| used[index]) {
        devices.push(device);
        let too_many = |_| Error::TooLarge { what: "more than 65,535 devices" };
        ids[index] = u16::try_from(devices.len()).map_err(too_many)?;
    }
    Ok((devices, ids))
}
