//! [`Recipe`]: what shapes the metadata of an image, whichever way its data went.

use super::image_options::{InodeForm, Times};
use crate::{Incompat, Timestamp};

/// An attribute of more inodes than this is shared, as mkfs.erofs does by default.
pub(super) const SHARED_XATTR_USES: u32 = 2;

/// What shapes the metadata.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    /// Where inodes begin: the first block that data have left. 0 for an image of metadata only.
    pub meta_block: u64,
    /// Whether the last piece of directories and links may stand behind their inodes.
    pub inline_data: bool,
    pub inode_form: InodeForm,
    pub shared_xattr_uses: u32,
    pub times: Times,
    pub build_time: Option<i64>,
    pub volume_name: [u8; 16],
    pub checksum: bool,
    /// Features that the data need.
    pub features: Incompat,
    /// Bits of the codecs that the image lists, and their records behind the superblock.
    pub codec_bits: u16,
    pub codec_records: Vec<u8>,
}

impl Recipe {
    /// An image of metadata whose data lie on devices.
    pub(super) fn of_metadata(latest: Option<i64>) -> Self {
        Self {
            meta_block: 0,
            inline_data: true,
            inode_form: InodeForm::Auto,
            shared_xattr_uses: SHARED_XATTR_USES,
            times: latest.map_or(Times::Keep, Times::Latest),
            build_time: latest,
            volume_name: [0; 16],
            checksum: true,
            features: Incompat::empty(),
            codec_bits: 0,
            codec_records: Vec::new(),
        }
    }

    /// What becomes of a modification time.
    pub(super) fn mtime(&self, own: Timestamp) -> Timestamp {
        match self.times {
            Times::Keep => own,
            Times::Latest(latest) => own.min(Timestamp::new(latest, 0)),
            Times::All(all) => Timestamp::new(all, 0),
        }
    }
}
