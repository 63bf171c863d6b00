//! EROFS, the enhanced read-only file system: read an image, map it, check it, write it.
//!
//! # EROFS in one page
//!
//! An image is a run of blocks (512 bytes to 64 KiB, usually 4 KiB) with a **superblock** at byte 1024. There are
//! no allocation structures: everything is reached from the root directory's number.
//!
//! ```text
//! byte 0      1024          wherever the superblock says                    wherever inodes say
//! | boot area | superblock | inode, xattrs, index, tail | inode, ... | ... | data blocks | pclusters |
//! ```
//!
//! * An **inode** has 32 bytes (compact) or 64 (extended). Its number, the [`Nid`], is its place: byte
//!   `32 * nid` of the inode space. What belongs to it follows it: extended attributes, then the index of its data,
//!   then perhaps the data's tail.
//! * A **directory** is a file whose blocks hold sorted names, each with the [`Nid`] it leads to. A lookup is a
//!   binary search: first for the block, then inside it.
//! * **Data** is stored in one of five ways ([`Layout`]): as one run of blocks, the same with the last piece behind
//!   the inode, as a table of **chunks** that may lie anywhere, on other **devices** too, or compressed, with full
//!   or with compact indexes.
//! * **Compressed** files are cut into **extents** of decoded bytes. Each is stored in a **pcluster**, a run of whole
//!   blocks that holds as much input as fits, or exactly as long as it is in newer images. An index entry for every
//!   **lcluster** (a block's worth of the file) says whether an extent begins there, where in it, and where its
//!   pcluster is. Bytes that no codec shortens stay plain.
//! * Small things are packed. The tail of a file may be **inline**, behind its index, or a **fragment**: a piece of
//!   the **packed inode**, which has no name and holds the tails of many files. Extents with equal contents share a
//!   pcluster, and a shorter one may use the beginning of a longer one. Inodes themselves can be compressed, in the
//!   **metabox**: an inode whose contents are metadata.
//! * Extended attributes stand behind the inode, or in a **shared** area where many inodes point; long name
//!   prefixes stand in a table; a 32-bit filter tells most absent names without looking.
//! * The superblock has a checksum. Nothing else has: integrity of data is for fs-verity, dm-verity or chunk digests.
//!
//! # Reading
//!
//! [`Image`] answers what a file system asks. Every method takes `&self`, so that one image serves many threads.
//!
//! ```
//! use larder_erofs::{FileType, Image, LogicalAddr};
//! # use larder_erofs::writer::{Attributes, Options, Tree, write_data};
//! # let mut tree = Tree::new();
//! # tree.add_file(b"etc/motd", b"hello\n".to_vec(), &Attributes::default())?;
//! # let (mut blob, mut bytes) = (Vec::new(), Vec::new());
//! # write_data(tree, &Options::default(), &mut blob)?.write_metadata(&[larder_erofs::DeviceTag::EMPTY], &mut bytes)?;
//!
//! let image = Image::open(bytes)?; // or a `File`, or any other `MetaSource`
//! for entry in image.walk() {
//!     let entry = entry?;
//!     println!("{:>8} {}", entry.inode.size, String::from_utf8_lossy(&entry.path));
//! }
//!
//! let nid = image.resolve(b"etc/motd")?.expect("it is there");
//! let inode = image.inode(nid)?;
//! assert_eq!(inode.kind, FileType::Regular);
//! let mut text = vec![0; usize::try_from(inode.size)?];
//! image.read_exact_at(&inode, LogicalAddr::new(0), &mut text, &mut |_device, at, buf| {
//!     let start = usize::try_from(at.get()).expect("a small blob");
//!     buf.copy_from_slice(&blob[start..start + buf.len()]); // the image's one extra device
//!     Ok(())
//! })?;
//! assert_eq!(text, b"hello\n");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Who fetches by himself asks [`Image::map`] where bytes lie: an [`Extent`] is a hole, plain bytes of a device, or a
//! piece of an [`Encoded`] pcluster.
//!
//! # Bytes that are not here yet
//!
//! A [`MetaSource`] need not have everything. It answers [`SourceError::NotHere`] with the ranges it lacks; the call
//! then fails with [`Error::NotHere`], which names all of them, and can be repeated when they were brought. Nothing
//! waits inside this crate, so the same reader serves a local file, a cache that fills and a network.
//!
//! ```
//! use larder_erofs::{Error, Image, MetaSource};
//!
//! fn open_remote(source: &'static dyn MetaSource, bring: impl Fn(&[larder_erofs::DeviceRange])) -> Result<Image, Error> {
//!     loop {
//!         match Image::open(source) {
//!             Err(Error::NotHere { ranges }) => bring(&ranges),
//!             result => return result,
//!         }
//!     }
//! }
//! ```
//!
//! # What can be relied on
//!
//! * Whatever the bytes are: no panic, no endless loop, no memory by a number that was not checked. One read takes at
//!   most 1 MiB of encoded and 12 MiB of decoded bytes beside its buffer; the cache of decoded pclusters is bounded
//!   ([`Image::with_cluster_cache`]). A thread that has read encoded files keeps up to 256 KiB for the next ones.
//! * Everything that Linux 7.3 reads is read. LZ4 is always there; the cargo features `lzma`, `deflate` and `zstd`, on
//!   by default, bring the other codecs. A file whose codec is off is [`Error::CodecNotBuilt`]; the rest of its image
//!   can be read. Without `zstd` and `encode` the crate has no C code.
//! * Block sizes above a page are read too; the kernel refuses them.
//!
//! # Checking
//!
//! [`check::check`] goes through everything that an image says, with many threads, and names every fault: what a reader
//! would meet one after the other, and what none would notice, such as a link count that lies.
//!
//! # Writing
//!
//! [`writer::write_image`] turns a tree into an image of one piece, [`writer::write_image_from_dir`] a directory while it looks
//! for its files, and [`writer::write_image_from_tar`] a tar stream, without unpacking it; compressed or not, on all processors, with the same bytes for any number of them.
//! [`writer::write_data`] makes an image of metadata and a blob of file data in chunks, each content once: what is
//! fetched piece by piece. [`writer::index_tar`] makes the metadata for an archive that stays as it is.
//!
//! [`writer::Tree::from_layers`] merges images as overlayfs would show them, with the whiteouts of OCI layers and of
//! overlayfs; [`writer::write_merged`] writes that as metadata that point into the layers, whatever their layout.
//!
//! ```
//! use std::io::Cursor;
//!
//! use larder_erofs::writer::{Attributes, ImageOptions, Tree, write_image};
//!
//! let mut tree = Tree::new();
//! tree.add_file(b"etc/motd", b"hello\n".to_vec(), &Attributes::default())?;
//! let options = ImageOptions { tail_packing: true, compressors: vec!["lz4".parse()?], ..ImageOptions::default() };
//! let summary = write_image(tree, &options, &mut Cursor::new(Vec::new()))?; // or a `File`
//! assert_eq!((summary.inodes, summary.file_bytes), (3, 6));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The encoders of LZ4 and DEFLATE are C libraries behind the cargo feature `encode`, on by default.

#![forbid(unsafe_code)]

mod addr;
mod error;
mod source;

mod chunk;
mod codec;
mod device;
mod dirent;
mod feature;
mod file_type;
mod inode;
mod superblock;
mod timestamp;
mod xattr;
mod zmap;

pub mod check;
#[doc(hidden)]
pub mod fuzzing;
mod image;
pub mod writer;

pub use addr::{BlockSize, DeviceId, LogicalAddr, Nid, PhysicalAddr};
pub use chunk::{ChunkFormat, ChunkRef};
pub use codec::{Codec, CodecFault};
pub use device::{DeviceSlot, DeviceTag};
pub use error::{DirFault, Error, XattrFault};
pub use feature::{Compat, Incompat};
pub use file_type::{FileType, Rdev};
pub use image::{
    DeviceMode, DirEntry, DirEntryRef, Encoded, Extent, ExtentKind, Extents, Image, Place, ReadDir, Walk,
    WalkEntry,
};
pub use inode::{Inode, Layout};
pub use source::{ByteRange, DeviceRange, MetaSource, ReadDevice, SourceError};
pub use superblock::Superblock;
pub use timestamp::Timestamp;
pub use xattr::Xattr;
pub use zmap::MapFault;
