//! [`Error`]: why an image could not be read or written.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::writer::{OptionsFault, TarFault};
use crate::zmap::MapFault;
use crate::{Codec, CodecFault, DeviceId, DeviceRange, LogicalAddr, Nid, PhysicalAddr};

/// Why an image could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each message is the documentation of its variant and fields")]
pub enum Error {
    #[error("reading {len} bytes of metadata at {at}")]
    Read { at: PhysicalAddr, len: usize, source: io::Error },
    #[error("reading {len} bytes of device {device} at {at}")]
    ReadDevice { device: DeviceId, at: PhysicalAddr, len: usize, source: io::Error },

    /// Bring these, sorted and without overlap, and ask again.
    #[error("{} ranges are not here yet", ranges.len())]
    NotHere { ranges: Vec<DeviceRange> },

    #[error("superblock: magic number {found:#010x} is not that of EROFS")]
    Magic { found: u32 },
    #[error("superblock: block size 2^{bits} lies outside 512 B..64 KiB")]
    BlockSize { bits: u8 },
    #[error("superblock: directory block exponent {found} is not 0")]
    DirBlockBits { found: u8 },
    #[error("superblock: checksum is {computed:#010x}, but {stored:#010x} is stored")]
    Checksum { stored: u32, computed: u32 },
    #[error("superblock: feature bits {bits:#x} are unknown")]
    UnknownFeatures { bits: u32 },
    #[error("superblock: {bytes} bytes do not fit into the first page")]
    SuperblockSize { bytes: u64 },
    #[error("superblock: fingerprint prefix {index} lies beyond the {count} prefixes")]
    IsharePrefix { index: u8, count: u8 },
    #[error("superblock: {nid} cannot be the metabox inode")]
    MetaboxNid { nid: Nid },
    #[error("superblock: {nid} cannot be the packed inode")]
    PackedNid { nid: Nid },
    #[error("superblock: the configuration of codec {codec} is not valid")]
    CodecConfig { codec: Codec },
    #[error("superblock: codec bits {bits:#x} are unknown")]
    UnknownCodecs { bits: u16 },
    #[error("superblock: the table of {count} devices at {at} passes the end of the image")]
    DeviceTable { at: PhysicalAddr, count: u16 },
    #[error("superblock: xattr prefix {index} has an impossible length of {length}")]
    XattrPrefix { index: u8, length: u16 },
    #[error("inode {nid}: the root is not a directory")]
    RootNotDirectory { nid: Nid },

    #[error("inode {nid}: lies in a metabox, which the image does not have")]
    InMetabox { nid: Nid },
    #[error("inode {nid}: lies outside the address space")]
    NidOverflow { nid: Nid },
    #[error("inode {nid}: format {found:#06x} has unknown bits")]
    InodeFormat { nid: Nid, found: u16 },
    #[error("inode {nid}: data layout {found} is unknown")]
    DataLayout { nid: Nid, found: u16 },
    #[error("inode {nid}: compression index: {fault}")]
    Map { nid: Nid, fault: MapFault },
    #[error("inode {nid}: the pcluster of {len} bytes at {at} is no {codec}: {fault}")]
    Decode { nid: Nid, at: u64, len: u64, codec: Codec, fault: CodecFault },
    #[error("inode {nid}: this build of Larder lacks codec {codec}")]
    CodecNotBuilt { nid: Nid, codec: Codec },
    #[error("inode {nid}: mode {found:#o} names no type of file")]
    Mode { nid: Nid, found: u16 },
    #[error("inode {nid}: size {found} is above 2^63 - 1")]
    FileSize { nid: Nid, found: u64 },
    #[error("inode {nid}: chunk format {found:#06x} has unknown bits")]
    ChunkFormat { nid: Nid, found: u16 },
    #[error("inode {nid}: xattr body of a header only")]
    XattrCount { nid: Nid },
    #[error("inode {nid}: extended attributes: {fault}")]
    Xattrs { nid: Nid, fault: XattrFault },
    #[error("inode {nid}: inline data crosses a block boundary")]
    InlineCrossesBlock { nid: Nid },
    #[error("inode {nid}: data at {at} lies outside the address space")]
    AddressOverflow { nid: Nid, at: LogicalAddr },
    #[error("inode {nid}: refers to device {device}, which the image does not have")]
    UnknownDevice { nid: Nid, device: DeviceId },
    #[error("inode {nid}: metadata lies on device {device}")]
    MetadataOnDevice { nid: Nid, device: DeviceId },
    #[error("inode {nid}: read at {at}, past the end")]
    PastEnd { nid: Nid, at: LogicalAddr },
    #[error("inode {nid}: symbolic link with an impossible target of {len} bytes")]
    SymlinkTarget { nid: Nid, len: u64 },
    #[error("inode {nid}: not a symbolic link")]
    NotSymlink { nid: Nid },
    #[error("inode {nid}: not a directory")]
    NotDirectory { nid: Nid },
    #[error("inode {nid}: directory block {block}: {fault}")]
    Directory { nid: Nid, block: u64, fault: DirFault },
    #[error("inode {nid}: directory is reached twice")]
    DirectoryLinkedTwice { nid: Nid },
    #[error("inode {nid}: directory lies too deep")]
    TooDeep { nid: Nid },

    #[error("reading {}", path.display())]
    Scan { path: PathBuf, source: io::Error },
    #[error("reading extended attribute {} of {}", name.display(), path.display())]
    ScanXattr { path: PathBuf, name: PathBuf, source: io::Error },
    #[error("{} changed while it was read", path.display())]
    Changed { path: PathBuf },
    #[error("{}: {reason}", path.display())]
    Unrepresentable { path: PathBuf, reason: &'static str },
    #[error("{} exists twice in the image", path.display())]
    Exists { path: PathBuf },
    #[error("{} is no path of an image", path.display())]
    BadPath { path: PathBuf },
    #[error("the image has no {}", path.display())]
    Missing { path: PathBuf },
    #[error("chunks of 2^{chunk_bits} bytes do not go with blocks of 2^{block_bits}")]
    ChunkSize { chunk_bits: u8, block_bits: u8 },
    #[error("the image would need {what}")]
    TooLarge { what: &'static str },
    /// The lowest layer has number 0.
    #[error("layer {number}: {}", if path.as_os_str().is_empty() { "the root".into() } else { path.display().to_string() })]
    Layer { number: u32, path: PathBuf, source: Box<Error> },
    #[error("{found} devices were given for a layer that has {expected}")]
    LayerDevices { found: usize, expected: usize },
    #[error("{found} device tags were given for {expected} devices")]
    DeviceTags { found: usize, expected: usize },
    #[error("a dictionary with blocks of 2^{found} bytes does not go with 2^{expected}")]
    DictionaryBlockSize { found: u8, expected: u8 },
    #[error("writing the data blob")]
    WriteBlob { source: io::Error },
    #[error("writing the metadata image")]
    WriteMetadata { source: io::Error },
    #[error("writing the image")]
    WriteImage { source: io::Error },
    #[error("reading the archive at byte {at}")]
    ReadTar { at: u64, source: io::Error },
    #[error("archive: the entry at byte {at}: {fault}")]
    Tar { at: u64, fault: TarFault },
    /// Entries for the holes of all sparse files of an archive, up to this one.
    #[error("archive: {}: holes need {entries} entries in tables, but after as many bytes {entries_max} are the limit", path.display())]
    SparseClaims { path: PathBuf, entries: u64, entries_max: u64 },
    #[error("options: {fault}")]
    Options { fault: OptionsFault },
}

/// What is wrong with a directory block.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "each message is the documentation of its variant and fields")]
pub enum DirFault {
    #[error("{len} bytes are too few for an entry")]
    Short { len: usize },
    #[error("names cannot begin at {nameoff}")]
    FirstName { nameoff: usize },
    #[error("entry {index} has no valid name")]
    Name { index: usize },
    #[error("the name of entry {index} has a slash or NUL")]
    NameByte { index: usize },
    #[error("entry {index} is out of order")]
    Order { index: usize },
}

/// What is wrong with the extended attributes of an inode.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "each message is the documentation of its variant and fields")]
pub enum XattrFault {
    #[error("{count} shared entries do not fit")]
    SharedCount { count: usize },
    #[error("shared entry {id} lies outside the address space")]
    SharedId { id: u32 },
    #[error("an entry passes the end")]
    Entry,
}

impl Error {
    /// Returns what the operator can do about it; the CLI prints it as `hint: ...`.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Magic { .. } => {
                Some("is this an EROFS image? the metadata comes first in an image of several parts")
            }
            Self::Checksum { .. } => Some("the image is damaged: fetch it again"),
            Self::UnknownFeatures { .. } | Self::DataLayout { .. } | Self::InodeFormat { .. } => {
                Some("update Larder: the image is newer than this build")
            }
            Self::BlockSize { .. } => Some("rebuild the image with a supported block size"),
            Self::CodecNotBuilt { .. } => Some("build Larder with the cargo feature of that name"),
            Self::Decode { .. } => Some("the image is damaged: fetch it again"),
            Self::Tar { .. } => {
                Some("is this a tar archive? gzip, zstd and xz are decoded, other compressions are not")
            }
            Self::SparseClaims { .. } => Some(
                "files that are not compressed need fewer entries, and a directory as the source has no such limit",
            ),
            Self::Changed { .. } => Some("build from a snapshot, or when nothing writes to the tree"),
            Self::Scan { source, .. } | Self::ScanXattr { source, .. }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                Some("run as root, or as the owner of the tree")
            }
            Self::Exists { .. } => Some("give every source a place of its own"),
            Self::DictionaryBlockSize { .. } => Some("deduplicate against images with the same block size"),
            Self::Layer { source, .. } => source.hint(),
            Self::TooLarge { .. } => Some("split the tree into several images"),
            _ => None,
        }
    }

    /// Returns the error number that a kernel front end answers with.
    pub fn errno(&self) -> i32 {
        use rustix::io::Errno;
        let errno = match self {
            Self::Read { source, .. }
            | Self::ReadDevice { source, .. }
            | Self::Scan { source, .. }
            | Self::ScanXattr { source, .. }
            | Self::WriteBlob { source }
            | Self::WriteMetadata { source }
            | Self::ReadTar { source, .. }
            | Self::WriteImage { source } => {
                return source.raw_os_error().unwrap_or(Errno::IO.raw_os_error());
            }
            Self::Layer { source, .. } => return source.errno(),
            Self::NotDirectory { .. } => Errno::NOTDIR,
            Self::NotSymlink { .. } | Self::PastEnd { .. } | Self::BadPath { .. } => Errno::INVAL,
            Self::NotHere { .. } => Errno::AGAIN,
            Self::Map { fault, .. } if fault.is_unsupported() => Errno::OPNOTSUPP,
            Self::CodecNotBuilt { .. }
            | Self::UnknownFeatures { .. }
            | Self::UnknownCodecs { .. }
            | Self::InodeFormat { .. }
            | Self::DataLayout { .. }
            | Self::ChunkFormat { .. } => Errno::OPNOTSUPP,
            Self::Checksum { .. } => Errno::BADMSG,
            Self::Magic { .. } | Self::BlockSize { .. } | Self::DirBlockBits { .. } => Errno::INVAL,
            Self::SuperblockSize { .. }
            | Self::IsharePrefix { .. }
            | Self::MetaboxNid { .. }
            | Self::PackedNid { .. }
            | Self::CodecConfig { .. }
            | Self::InMetabox { .. }
            | Self::Map { .. }
            | Self::Decode { .. }
            | Self::DeviceTable { .. }
            | Self::XattrPrefix { .. }
            | Self::RootNotDirectory { .. }
            | Self::NidOverflow { .. }
            | Self::Mode { .. }
            | Self::FileSize { .. }
            | Self::XattrCount { .. }
            | Self::Xattrs { .. }
            | Self::InlineCrossesBlock { .. }
            | Self::AddressOverflow { .. }
            | Self::UnknownDevice { .. }
            | Self::MetadataOnDevice { .. }
            | Self::SymlinkTarget { .. }
            | Self::Directory { .. }
            | Self::DirectoryLinkedTwice { .. }
            | Self::TooDeep { .. } => Errno::UCLEAN,
            Self::Tar { .. } => Errno::BADMSG,
            Self::Changed { .. } => Errno::AGAIN,
            Self::Exists { .. } => Errno::EXIST,
            Self::Missing { .. } => Errno::NOENT,
            Self::Unrepresentable { .. } | Self::TooLarge { .. } | Self::SparseClaims { .. } => Errno::FBIG,
            Self::ChunkSize { .. }
            | Self::DeviceTags { .. }
            | Self::LayerDevices { .. }
            | Self::DictionaryBlockSize { .. }
            | Self::Options { .. } => Errno::INVAL,
        };
        errno.raw_os_error()
    }
}

/// A path of the image or of the source, whose bytes need not be UTF-8.
pub(crate) fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}
