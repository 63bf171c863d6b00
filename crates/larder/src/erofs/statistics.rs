//! [`Statistics`]: what kinds of objects an image holds, how large they are, and what they take.

use larder_erofs::{FileType, Image, Inode, Layout};
use serde::{Serialize, Serializer};

/// Sizes are sorted into classes: below 1 KiB, below 2, … below 32 MiB, and all above.
pub const SIZE_CLASSES: usize = 17;

/// Numbers of a whole image, by name: an object with several names counts for each, as dump.erofs has it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Statistics {
    /// Names, and the root.
    pub objects: u64,
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Character devices.
    pub char_devices: u64,
    /// Block devices.
    pub block_devices: u64,
    /// FIFOs.
    pub fifos: u64,
    /// Sockets.
    pub sockets: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Objects whose contents are compressed.
    pub compressed: u64,
    /// Length of all regular files.
    pub file_bytes: u64,
    /// What their contents take.
    pub stored_bytes: u64,
    /// Regular files by length, in classes.
    #[serde(serialize_with = "classes")]
    pub by_size: [u64; SIZE_CLASSES],
    /// Regular files by what they take, in the same classes.
    #[serde(serialize_with = "classes")]
    pub by_stored: [u64; SIZE_CLASSES],
    /// Regular files by the end of their name, in the order of [`EXTENSIONS`], and all others.
    #[serde(serialize_with = "endings")]
    pub by_extension: [u64; EXTENSIONS.len() + 1],
}

/// The name endings that dump.erofs counts.
pub const EXTENSIONS: [&str; 9] = [".txt", ".so", ".xml", ".apk", ".odex", ".vdex", ".oat", ".rc", ".otf"];

impl Statistics {
    /// Walks the image.
    ///
    /// # Errors
    ///
    /// The first fault met.
    pub fn gather(image: &Image) -> Result<Self, larder_erofs::Error> {
        let mut found = Self::default();
        for entry in image.walk() {
            let entry = entry?;
            let inode = entry.inode;
            found.objects += 1;
            *found.counter(inode.kind) += 1;
            if is_compressed(&inode) {
                found.compressed += 1;
            }
            if inode.kind == FileType::Regular {
                found.file(image, &entry.path, &inode);
            }
        }
        Ok(found)
    }

    fn file(&mut self, image: &Image, path: &[u8], inode: &Inode) {
        let ending = EXTENSIONS.iter().position(|ending| path.ends_with(ending.as_bytes()));
        self.by_extension[ending.unwrap_or(EXTENSIONS.len())] += 1;
        let stored = stored_bytes(image, inode);
        self.file_bytes = self.file_bytes.saturating_add(inode.size);
        self.stored_bytes = self.stored_bytes.saturating_add(stored);
        self.by_size[class(inode.size)] += 1;
        self.by_stored[class(stored)] += 1;
    }

    fn counter(&mut self, kind: FileType) -> &mut u64 {
        match kind {
            FileType::Regular => &mut self.files,
            FileType::Directory => &mut self.directories,
            FileType::CharDevice => &mut self.char_devices,
            FileType::BlockDevice => &mut self.block_devices,
            FileType::Fifo => &mut self.fifos,
            FileType::Socket => &mut self.sockets,
            FileType::Symlink => &mut self.symlinks,
        }
    }
}

/// Whether the contents are encoded.
pub fn is_compressed(inode: &Inode) -> bool {
    matches!(inode.layout, Layout::CompressedFull | Layout::CompressedCompact) && inode.kind.has_data()
}

/// Bytes that the contents of an inode take, by what it says itself.
pub fn stored_bytes(image: &Image, inode: &Inode) -> u64 {
    if is_compressed(inode) {
        inode.encoded_blocks.saturating_mul(image.superblock().block_size.bytes())
    } else {
        inode.size
    }
}

/// A class of sizes with the bytes that its files have less than; the last one has no such bound.
#[derive(Serialize)]
struct SizeClass {
    below_bytes: Option<u64>,
    files: u64,
}

fn classes<S: Serializer>(counts: &[u64; SIZE_CLASSES], serializer: S) -> Result<S::Ok, S::Error> {
    let bounds = (0..SIZE_CLASSES - 1).map(|class| Some(1024 << class)).chain([None]);
    serializer.collect_seq(bounds.zip(counts).map(|(below_bytes, &files)| SizeClass { below_bytes, files }))
}

fn endings<S: Serializer>(counts: &[u64; EXTENSIONS.len() + 1], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(EXTENSIONS.iter().chain(&["others"]).zip(counts))
}

/// Which class a size belongs to.
fn class(bytes: u64) -> usize {
    let kibibytes = bytes >> 10;
    let bits = usize::try_from(u64::BITS - kibibytes.leading_zeros()).unwrap_or(SIZE_CLASSES);
    bits.min(SIZE_CLASSES - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_told_what_is_counted() {
        let mut found = Statistics::default();
        (found.by_size[1], found.by_stored[SIZE_CLASSES - 1], found.by_extension[1]) = (2, 3, 4);
        let shown = serde_json::to_value(&found).expect("numbers");
        assert_eq!(shown["by_size"][1], serde_json::json!({ "below_bytes": 2048, "files": 2 }));
        assert_eq!(shown["by_stored"][16], serde_json::json!({ "below_bytes": null, "files": 3 }));
        assert_eq!(shown["by_extension"][".so"], 4);
        assert_eq!(shown["by_extension"]["others"], 0);
    }

    #[test]
    fn sizes_fall_into_classes_of_doubling_width() {
        for (bytes, expected) in
            [(0, 0), (1023, 0), (1024, 1), (2047, 1), (2048, 2), (4096, 3), (32 << 20, 16), (u64::MAX, 16)]
        {
            assert_eq!(class(bytes), expected, "{bytes}");
        }
    }
}
