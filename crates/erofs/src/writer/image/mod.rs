//! [`write_image`]: a tree becomes an image of one piece, compressed or not.
//!
//! Files go through a pipeline in pieces: read and cut into extents on several threads ([`segment`]), put in their
//! places in order ([`place`]). Metadata follow the data, and the superblock is written last, at the front.

mod codecs;
mod encoded;
mod feed;
mod index;
mod merged;
mod metabox;
mod piece;
mod place;
mod point;
mod room;
mod scanned;
mod segment;

use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::num::NonZero;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::data::{NO_FILE, WrittenData};
use super::emit::MetaWriter;
use super::encode::Encoder;
use super::image_options::{Fragments, Hint, ImageOptions};
use super::layout::Plan;
use super::metadata::{HashWriter, emit_metadata, head, uuid_of};
use super::node::{Content, NodeId};
use super::options::Geometry;
use super::order::order;
use super::pipeline::{self, Feed, Worker};
use super::reader::read_at;
use super::recipe::Recipe;
use super::tar::{Adder, Entries, TarFeed, TarOptions};
use super::text::index as at;
use super::tree::Tree;
use crate::device::SLOT_BYTES;
use crate::superblock::{SUPERBLOCK_AT, SUPERBLOCK_BYTES, checksum, checksum_bytes};
use crate::{BlockSize, Error, FileType};

use codecs::Codecs;
pub(in crate::writer) use encoded::{EncodedFile, IndexRules, Records};
use feed::{FileFeed, Listed};
pub use merged::{LayerDevice, LayerDevices, MergedSummary, write_merged};
pub(in crate::writer) use metabox::Metabox;
pub(in crate::writer) use piece::{LOAD_BYTES, LOAD_PIECES, Load, Method, PIECE_BYTES, Piece, hole_bytes};
pub(in crate::writer) use place::Place;
use place::{Placer, Placing};
use scanned::Scanned;
pub use scanned::{DirectoryOptions, ScanFilter};
use segment::Rules;
pub(in crate::writer) use segment::zeros_extent;

/// What was written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ImageSummary {
    /// Inodes of the image.
    pub inodes: u64,
    /// Length of the image.
    pub bytes: u64,
    /// Bytes of it that are inodes, attributes, indexes and directories.
    pub metadata_bytes: u64,
    /// Bytes of file contents.
    pub file_bytes: u64,
    /// Bytes of them that were there already.
    pub deduplicated_bytes: u64,
    /// Identity of the image.
    pub uuid: [u8; 16],
}

/// Writes `tree` as an image of one piece to `out`, from its current position.
///
/// The same tree and options give the same bytes, whatever [`ImageOptions::jobs`]. Memory is bounded by the number
/// of threads, plus the indexes and tails that stand among the metadata. `out` should be empty: nothing behind the
/// image is cut off. Blocks on `out` and on the file systems read from.
///
/// # Errors
///
/// [`Error::Options`] when options cannot be followed, [`Error::Scan`] and [`Error::Changed`] name a file,
/// [`Error::WriteImage`].
///
/// # Examples
///
/// ```
/// use std::io::Cursor;
///
/// use larder_erofs::writer::{Attributes, ImageOptions, Tree, write_image};
/// use larder_erofs::{Image, LogicalAddr};
///
/// let mut tree = Tree::new();
/// tree.add_file(b"zeros and ones", vec![b'0'; 100_000], &Attributes::default())?;
/// let options = ImageOptions { compressors: vec!["lz4".parse()?], ..ImageOptions::default() };
/// let mut out = Cursor::new(Vec::new());
/// let summary = write_image(tree, &options, &mut out)?;
/// assert!(summary.bytes < 20_000);
///
/// let image = Image::open(out.into_inner())?;
/// let inode = image.inode(image.resolve(b"zeros and ones")?.expect("it is there"))?;
/// let mut one = [0];
/// image.read_exact_at(&inode, LogicalAddr::new(77_777), &mut one, &mut |_, _, _| unreachable!("one piece"))?;
/// assert_eq!(one, *b"0");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn write_image<W: Write + Seek>(
    tree: Tree,
    options: &ImageOptions<'_>,
    out: &mut W,
) -> Result<ImageSummary, Error> {
    write(Source::<'_, io::Empty>::Tree(Box::new(tree)), options, out)
}

/// Writes a tar archive as an image of one piece to `out`, from its current position.
///
/// The archive is read once from front to back, and nothing is unpacked to disk. What comes later under the same
/// name counts, as with `tar -x`. [`decode_archive`](super::decode_archive) reads one that is compressed.
///
/// # Errors
///
/// As [`write_image`]; [`Error::Tar`] and [`Error::ReadTar`] for an archive that is damaged or cannot be read,
/// [`Error::SparseClaims`] when sparse files claim too many holes: 2^22 table entries in all, and one more for each 32 bytes of
/// the archive.
///
/// # Examples
///
/// ```
/// use std::io::Cursor;
///
/// use larder_erofs::Image;
/// use larder_erofs::writer::{ImageOptions, TarOptions, write_image_from_tar};
///
/// let archive = [0; 1024]; // an empty one
/// let mut out = Cursor::new(Vec::new());
/// write_image_from_tar(&archive[..], &TarOptions::default(), &ImageOptions::default(), &mut out)?;
/// assert_eq!(Image::open(out.into_inner())?.walk().count(), 1);
/// # Ok::<(), larder_erofs::Error>(())
/// ```
pub fn write_image_from_tar<R: Read + Send, W: Write + Seek>(
    archive: R,
    tar: &TarOptions<'_>,
    options: &ImageOptions<'_>,
    out: &mut W,
) -> Result<ImageSummary, Error> {
    write(Source::Tar(archive, *tar), options, out)
}

/// Writes a directory of the host, with all it holds, as an image of one piece to `out`, from its current position.
///
/// The image is the one that [`write_image`] writes of the [scanned](Tree::add_root_from) tree. It is there sooner: the files are
/// encoded while others are still being looked for. So `out` must not lie in `dir`: it would become a part of itself.
///
/// # Errors
///
/// As [`write_image`] and [`Tree::add_root_from`].
///
/// # Examples
///
/// ```
/// use std::io::Cursor;
///
/// use larder_erofs::Image;
/// use larder_erofs::writer::{DirectoryOptions, ImageOptions, write_image_from_dir};
///
/// let mut out = Cursor::new(Vec::new());
/// write_image_from_dir("src".as_ref(), &DirectoryOptions::default(), &ImageOptions::default(), &mut out)?;
/// assert!(Image::open(out.into_inner())?.resolve(b"lib.rs")?.is_some());
/// # Ok::<(), larder_erofs::Error>(())
/// ```
pub fn write_image_from_dir<W: Write + Seek>(
    dir: &Path,
    from: &DirectoryOptions<'_>,
    options: &ImageOptions<'_>,
    out: &mut W,
) -> Result<ImageSummary, Error> {
    write(Source::<'_, io::Empty>::Directory(dir, from), options, out)
}

/// Where the tree comes from.
enum Source<'a, R> {
    Tree(Box<Tree>),
    Directory(&'a Path, &'a DirectoryOptions<'a>),
    Tar(R, TarOptions<'a>),
}

fn write<R: Read + Send, W: Write + Seek>(
    source: Source<'_, R>,
    options: &ImageOptions<'_>,
    out: &mut W,
) -> Result<ImageSummary, Error> {
    let block = options.check()?;
    let failed = |source| Error::WriteImage { source };
    let codecs = Codecs::new(options, block).map_err(|fault| Error::Options { fault })?;
    let start = out.stream_position().map_err(failed)?;
    let mut buffered = BufWriter::with_capacity(1 << 20, &mut *out);
    let mut data = write_contents(source, options, block, &codecs, &mut buffered)?;
    if let Some(hint) = options.metabox {
        let rules = rules(options, block);
        let placing = placing(options, block, &codecs, &rules);
        metabox::fill(&mut data, hint, options, &codecs, placing, &rules, &mut buffered)?;
    }
    finish(&data, options, buffered, start)
}

/// Writes metadata behind the data, and the head at the front, byte `start` of the output.
fn finish<W: Write + Seek>(
    data: &WrittenData,
    options: &ImageOptions<'_>,
    mut out: BufWriter<&mut W>,
    start: u64,
) -> Result<ImageSummary, Error> {
    let failed = |source| Error::WriteImage { source };
    let block = data.geometry.block;
    let plan = Plan::new(data)?;
    let slots = plan.layer_slots();
    let mut hasher = HashWriter(Sha256::new_with_prefix(data.content));
    {
        let mut both = Both(&mut out, &mut hasher);
        let mut writer = MetaWriter::behind_head(&mut both, plan.meta_at);
        emit_metadata(&plan, &mut writer)?;
    }
    let first = head(&plan, &slots, [0; 16])?;
    hasher.0.update(&first);
    let uuid = options.uuid.unwrap_or_else(|| uuid_of(hasher.0));
    let first = finished_head(&head(&plan, &slots, uuid)?, block, options.checksum);
    out.flush().map_err(failed)?;
    let out = out.get_mut();
    out.seek(SeekFrom::Start(start)).and_then(|_| out.write_all(&first)).map_err(failed)?;
    out.seek(SeekFrom::Start(start + plan.bytes)).map_err(failed)?;
    Ok(ImageSummary {
        inodes: plan.inodes.len() as u64 + data.metabox.map_or(0, |metabox| metabox.inodes),
        bytes: plan.bytes,
        metadata_bytes: plan.bytes - data.metabox.map_or(plan.meta_at, |metabox| metabox.metadata_at),
        file_bytes: data.totals.file_bytes,
        deduplicated_bytes: data.totals.deduplicated_bytes,
        uuid,
    })
}

/// Bytes before the data: boot area and superblock with what its checksum covers.
fn head_bytes(block: BlockSize) -> usize {
    (SUPERBLOCK_AT + checksum_bytes(block)).next_multiple_of(block.buffer_len())
}

/// As [`head_bytes`], with so many bytes of codec records and slots of devices.
fn head_room(block: BlockSize, records: usize, slots: usize) -> usize {
    let table = (SUPERBLOCK_AT + SUPERBLOCK_BYTES + records).next_multiple_of(SLOT_BYTES);
    head_bytes(block).max((table + SLOT_BYTES * slots).next_multiple_of(block.buffer_len()))
}

/// Pads the head and puts its checksum in.
fn finished_head(head: &[u8], block: BlockSize, with_checksum: bool) -> Vec<u8> {
    let mut head = head.to_vec();
    head.resize(head.len().max(head_bytes(block)).next_multiple_of(block.buffer_len()), 0);
    if with_checksum {
        let sum = checksum(&head[SUPERBLOCK_AT..SUPERBLOCK_AT + checksum_bytes(block)]);
        head[SUPERBLOCK_AT + 4..SUPERBLOCK_AT + 8].copy_from_slice(&sum.to_le_bytes());
    }
    head
}

/// Writes the contents of all files, behind room for the head.
fn write_contents<R: Read + Send>(
    source: Source<'_, R>,
    options: &ImageOptions<'_>,
    block: BlockSize,
    codecs: &Codecs,
    out: &mut dyn Write,
) -> Result<WrittenData, Error> {
    let refused = |fault| Error::Options { fault };
    let rules = rules(options, block);
    let head = vec![0; head_bytes(block)];
    out.write_all(&head).map_err(|source| Error::WriteImage { source })?;
    let placing = placing(options, block, codecs, &rules);
    let mut placer = Placer::new(out, placing, block.blocks(head.len() as u64));
    let (mut tree, mut files) = match source {
        Source::Tree(tree) => {
            let files = files(&tree, &order(&tree));
            let methods = feed::methods(&tree, &files, options, block).map_err(refused)?;
            run_tree(&tree, &files, &methods, codecs, &rules, options.jobs, &mut placer)?;
            (*tree, files)
        }
        Source::Directory(dir, from) => {
            let feed = FileFeed::new(Scanned::begin(dir, from, options, block)?, block);
            let read = |load: &mut Load| {
                let mut apart = std::mem::take(&mut load.apart);
                feed::read(load, block, |number, piece, buf| apart[number].read_at(piece.start, buf))?;
                apart.clear();
                load.apart = apart;
                Ok(())
            };
            run(feed, &read, codecs, &rules, options.jobs, &mut placer)?.into_files().finish()
        }
        Source::Tar(archive, tar) => {
            let feed = TarFeed::new(Entries::new(archive), Adder::new(Tree::new(), tar), options, block);
            run(feed, &|_| Ok(()), codecs, &rules, options.jobs, &mut placer)?.finish()?
        }
    };
    let mut order = order(&tree);
    let packed = std::mem::take(&mut placer.packed);
    let packed_node = if packed.is_empty() { None } else { Some(add_unnamed(&mut tree, packed)?) };
    if let Some(node) = packed_node {
        let method = options.method(Hint::default(), block).map_err(refused)?;
        let rules = Rules { fragments: Fragments::None, inline_bytes_max: 0, ..rules };
        run_tree(&tree, &[node], &[method], codecs, &rules, options.jobs, &mut placer)?;
        files.push(node);
        order.push(node);
    }
    let Placer { places, runs, content, totals, .. } = placer;
    tree.literals.clear();
    let mut file_of = vec![NO_FILE; tree.nodes.len()];
    for (file, &node) in (0..).zip(&files) {
        file_of[at(node)] = file;
    }
    let features = codecs.features(&places, packed_node.is_some(), &totals);
    let records = codecs.records(features, &places, block);
    Ok(WrittenData {
        tree,
        order,
        file_of,
        runs,
        places,
        index_rules: IndexRules { block, legacy: options.legacy_indexes, records: Records::default() },
        geometry: Geometry { block, chunk_bits: block.bits() },
        recipe: Recipe::of_image(options, totals.next_block, features, records),
        packed: packed_node,
        metabox: None,
        devices: Vec::new(),
        layer_devices: Vec::new(),
        device_ids: vec![0],
        content: content.finalize().into(),
        totals: super::data::Totals {
            file_bytes: totals.file_bytes,
            deduplicated_bytes: totals.deduplicated_bytes,
            ..super::data::Totals::default()
        },
    })
}

fn placing<'a>(
    options: &ImageOptions<'a>,
    block: BlockSize,
    codecs: &'a Codecs,
    rules: &Rules,
) -> Placing<'a> {
    Placing {
        block,
        inline_bytes_max: if options.inline_data { inline_bytes_max(block) } else { 0 },
        codecs: codecs.codecs(),
        zeros: codecs.zeros(),
        zeros_len: codecs.zeros_len(),
        interlaced: rules.interlaced,
        progress: options.progress,
    }
}

/// The files with data, in the order in which they will lie.
fn files(tree: &Tree, order: &[NodeId]) -> Vec<NodeId> {
    let has_data = |id: &&NodeId| {
        let node = &tree.nodes[at(**id)];
        node.kind == FileType::Regular && node.size > 0
    };
    order.iter().filter(has_data).copied().collect()
}

/// What stands behind an inode must lie in one block, and inodes begin at multiples of 32 bytes.
fn inline_bytes_max(block: BlockSize) -> usize {
    block.buffer_len() - 32
}

fn rules(options: &ImageOptions<'_>, block: BlockSize) -> Rules {
    let extent_bytes_max = usize::try_from(options.extent_bytes_max()).unwrap_or(usize::MAX);
    let modern = options.dedupe || options.fragments != Fragments::None;
    Rules {
        block,
        extent_bytes_max,
        inline_bytes_max: if options.tail_packing { inline_bytes_max(block) } else { 0 },
        fragments: options.fragments,
        interlaced: modern,
        zeros_extent: if options.legacy_indexes { 0 } else { zeros_extent(block) },
        chunk_bytes: if options.chunk_bits == 0 { 0 } else { 1 << options.chunk_bits },
        dedupe: options.dedupe,
    }
}

/// Sends the files of a tree through the pipeline.
fn run_tree(
    tree: &Tree,
    files: &[NodeId],
    methods: &[Method],
    codecs: &Codecs,
    rules: &Rules,
    jobs: NonZero<usize>,
    placer: &mut Placer<'_>,
) -> Result<(), Error> {
    let feed = FileFeed::new(Listed::new(tree, files, methods), rules.block);
    let read = |load: &mut Load| {
        feed::read(load, rules.block, |_, piece, buf| {
            read_at(tree, &tree.nodes[at(files[at(piece.file)])], piece.start, buf)
        })
    };
    run(feed, &read, codecs, rules, jobs, placer).map(drop)
}

/// Sends what `feed` gives out through the pipeline; each thread calls `read` before it encodes.
fn run<F: Feed<Load>>(
    feed: F,
    read: &(dyn Fn(&mut Load) -> Result<(), Error> + Sync),
    codecs: &Codecs,
    rules: &Rules,
    jobs: NonZero<usize>,
    placer: &mut Placer<'_>,
) -> Result<F, Error> {
    let worker = || -> Worker<'_, Load> {
        let mut encoders: Vec<Option<Encoder>> = codecs.codecs().iter().map(|_| None).collect();
        Box::new(move |load| {
            read(load)?;
            // What one load teaches must not depend on which thread had the one before.
            encoders.iter_mut().flatten().for_each(Encoder::forget);
            for index in 0..load.pieces.len() {
                let encoder = match load.pieces[index].method.compressor {
                    None => None,
                    Some(compressor) => {
                        let slot = &mut encoders[usize::from(compressor)];
                        Some(match slot {
                            Some(encoder) => encoder,
                            None => slot.insert(codecs.encoder(compressor)?),
                        })
                    }
                };
                segment::encode(load, index, rules, encoder);
            }
            Ok(())
        })
    };
    pipeline::run(feed, jobs.get(), &worker, &mut |load| placer.take(load))
}

/// Adds an inode without a name, that has parts of others as its contents.
fn add_unnamed(tree: &mut Tree, contents: Vec<u8>) -> Result<NodeId, Error> {
    let literal =
        u32::try_from(tree.literals.len()).map_err(|_| Error::TooLarge { what: "more than 2^32 files" })?;
    let size = contents.len() as u64;
    tree.literals.push(contents);
    tree.add_unnamed(Content::Literal(literal), size)
}

/// Writes to both.
struct Both<'a>(&'a mut dyn Write, &'a mut dyn Write);

impl Write for Both<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write_all(buf)?;
        self.1.write_all(buf)?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
