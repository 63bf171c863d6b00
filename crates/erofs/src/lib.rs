//! The EROFS on-disk format: read it, map it, write it.
//!
//! The reader ([`Image`]) answers what a file system client asks: look up a name, list a directory, say
//! where a byte of a file lies. It never trusts what it reads. The writer ([`writer`]) turns a directory
//! tree into one metadata image and one blob of file data, the same bytes on every machine.
//!
//! Caches, networks and async are for others: metadata comes through [`MetaSource`], file data is only
//! pointed at. Compressed data and the metabox are refused by name.

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

mod image;
pub mod writer;

pub use addr::{BlockSize, DeviceId, LogicalAddr, Nid, PhysicalAddr};
pub use chunk::{ChunkFormat, ChunkRef};
pub use codec::{Codec, CodecFault};
pub use device::{DeviceSlot, DeviceTag};
pub use error::{DirFault, Error, XattrFault};
pub use feature::{Compat, Incompat};
pub use file_type::{FileType, Rdev};
pub use image::{DeviceMode, DirEntry, Encoded, Extent, ExtentKind, Image, Place, ReadDir, Walk, WalkEntry};
pub use inode::{Inode, Layout};
pub use source::{ByteRange, DeviceRange, MetaSource, ReadDevice, SourceError};
pub use superblock::Superblock;
pub use timestamp::Timestamp;
pub use xattr::Xattr;
pub use zmap::MapFault;
