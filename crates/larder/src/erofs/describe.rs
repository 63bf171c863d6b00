//! Words and rows for what an image holds, as every command prints them.

use larder_erofs::{DeviceSlot, Image, Incompat, Inode, Layout, Superblock, Timestamp};
use serde::Serialize;

use crate::commands::ls::{letter, permissions, time, word};

/// The data layout in words.
pub fn layout(layout: Layout) -> &'static str {
    match layout {
        Layout::FlatPlain => "plain",
        Layout::FlatInline => "inline",
        Layout::ChunkBased => "chunks",
        Layout::CompressedFull => "compressed (full indexes)",
        Layout::CompressedCompact => "compressed (compact indexes)",
    }
}

/// The type letter and the permissions: `drwxr-xr-x`.
pub fn mode(inode: &Inode) -> String {
    format!("{}{}", letter(inode.kind), permissions(inode.mode))
}

/// A time in UTC with its nanoseconds.
pub fn time_exact(at: Timestamp) -> String {
    let text = time(at.seconds);
    format!("{}.{:09}Z", text.trim_end_matches('Z'), at.nanoseconds)
}

/// A UUID as it is written: `8-4-4-4-12` hexadecimal digits.
pub fn uuid(bytes: &[u8; 16]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// The text of a volume name or a device tag.
pub fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Names of compatible features, as dump.erofs has them.
pub fn compatible(superblock: &Superblock) -> Vec<&'static str> {
    const NAMES: [&str; 6] =
        ["sb_csum", "mtime", "xattr_filter", "shared_ea_in_metabox", "plain_xattr_pfx", "ishare_xattrs"];
    names(superblock.compat.bits(), &NAMES)
}

/// Names of incompatible features, as dump.erofs has them; three bits mean two things each.
pub fn incompatible(image: &Image) -> Vec<&'static str> {
    let superblock = image.superblock();
    let bits = superblock.incompat;
    let mut found = Vec::new();
    let mut add = |name, present| {
        if present {
            found.push(name);
        }
    };
    let devices = superblock.extra_devices > 0;
    add("lz4_0padding", bits.contains(Incompat::LZ4_0PADDING));
    add("compr_cfgs", bits.contains(Incompat::COMPR_CFGS));
    add("big_pcluster", bits.contains(Incompat::COMPR_CFGS));
    add("chunked_file", bits.contains(Incompat::CHUNKED_FILE));
    add("device_table", bits.contains(Incompat::DEVICE_TABLE) && devices);
    add("compr_head2", bits.contains(Incompat::DEVICE_TABLE) && !devices);
    add("ztailpacking", bits.contains(Incompat::ZTAILPACKING));
    add("fragments", bits.contains(Incompat::FRAGMENTS) && superblock.packed.is_some());
    add("dedupe", bits.contains(Incompat::FRAGMENTS) && superblock.packed.is_none());
    add("xattr_prefixes", bits.contains(Incompat::XATTR_PREFIXES));
    add("48bit", bits.contains(Incompat::BITS_48));
    add("metabox", bits.contains(Incompat::METABOX));
    found
}

fn names(bits: u32, table: &[&'static str]) -> Vec<&'static str> {
    table.iter().enumerate().filter(|(bit, _)| bits >> bit & 1 != 0).map(|(_, name)| *name).collect()
}

/// The oldest kernel that reads an image with these features: the table of `docs/formats.md`, by feature bit.
pub fn oldest_kernel(image: &Image) -> &'static str {
    let bits = image.superblock().incompat;
    let codecs = &image.superblock().listed_codecs;
    let by_feature = [
        (Incompat::METABOX, "6.17"),
        (Incompat::BITS_48, "6.15"),
        (Incompat::XATTR_PREFIXES, "6.4"),
        (Incompat::FRAGMENTS, "6.1"),
        (Incompat::ZTAILPACKING, "5.17"),
        (Incompat::DEVICE_TABLE, "5.16"),
        (Incompat::CHUNKED_FILE, "5.15"),
        (Incompat::COMPR_CFGS, "5.13"),
    ];
    let by_codec = [
        (larder_erofs::Codec::Zstd, "6.10"),
        (larder_erofs::Codec::Deflate, "6.6"),
        (larder_erofs::Codec::Lzma, "5.16"),
    ];
    let features = by_feature.iter().filter(|(bit, _)| bits.contains(*bit)).map(|row| row.1);
    let listed = by_codec.iter().filter(|(codec, _)| codecs.contains(codec)).map(|row| row.1);
    features.chain(listed).max_by_key(|version| version_key(version)).unwrap_or("5.4")
}

fn version_key(version: &str) -> (u32, u32) {
    let (major, minor) = version.split_once('.').unwrap_or((version, "0"));
    (major.parse().unwrap_or(0), minor.parse().unwrap_or(0))
}

/// An object as `--json` shows it.
#[derive(Debug, Serialize)]
pub struct Object {
    /// Its path from the root; bytes that are not UTF-8 are replaced, see `path_bytes`.
    pub path: String,
    /// The path when it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes: Option<Vec<u8>>,
    /// Node number.
    pub nid: u64,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Permission bits.
    pub mode: u16,
    /// Number of names.
    pub links: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes.
    pub size_bytes: u64,
    /// Seconds since 1970 of the last change.
    pub mtime_seconds: i64,
    /// Nanoseconds of the last change.
    pub mtime_nanoseconds: u32,
    /// How contents are stored.
    pub layout: &'static str,
    /// Major and minor number of a device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<[u32; 2]>,
    /// Where a symbolic link leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

impl Object {
    /// Describes `inode`, found at `path`.
    ///
    /// # Errors
    ///
    /// When the target of a link cannot be read.
    pub fn new(image: &Image, path: &[u8], inode: &Inode) -> anyhow::Result<Self> {
        let is_link = inode.kind == larder_erofs::FileType::Symlink;
        let target = is_link.then(|| image.read_link(inode)).transpose()?;
        Ok(Self {
            path: String::from_utf8_lossy(path).into_owned(),
            path_bytes: std::str::from_utf8(path).is_err().then(|| path.to_vec()),
            nid: inode.nid.get(),
            kind: word(inode.kind),
            mode: inode.mode,
            links: inode.nlink,
            uid: inode.uid,
            gid: inode.gid,
            size_bytes: inode.size,
            mtime_seconds: inode.mtime.seconds,
            mtime_nanoseconds: inode.mtime.nanoseconds,
            layout: layout(inode.layout),
            device: inode.kind.is_device().then(|| [inode.rdev.major(), inode.rdev.minor()]),
            target: target.map(|target| String::from_utf8_lossy(&target).into_owned()),
        })
    }
}

/// A device slot as `--json` shows it.
#[derive(Debug, Serialize)]
pub struct Device {
    /// Free text; in images of Larder the digest of the device's bytes.
    pub tag: String,
    /// Length in blocks.
    pub blocks: u64,
    /// First block in the unified address space; 0 for none.
    pub first_block: u64,
}

impl From<&DeviceSlot> for Device {
    fn from(slot: &DeviceSlot) -> Self {
        Self { tag: text(slot.tag.text()), blocks: slot.blocks, first_block: slot.uniaddr }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_and_a_time_read_as_usual() {
        let bytes: [u8; 16] = std::array::from_fn(|n| u8::try_from(n * 17).unwrap_or(0));
        assert_eq!(uuid(&bytes), "00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(time_exact(Timestamp::new(-1, 5)), "1969-12-31T23:59:59.000000005Z");
        assert_eq!(text(b"label\0\0x"), "label");
        assert!(version_key("6.10") > version_key("6.4") && version_key("6.4") > version_key("5.17"));
    }
}
