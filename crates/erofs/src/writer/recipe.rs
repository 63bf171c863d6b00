//! [`Recipe`]: what shapes the metadata of an image, whichever way its data went.

use super::image_options::{ImageOptions, InodeForm, Times};
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
    /// Identity; `None`: made from all that the image says.
    pub uuid: Option<[u8; 16]>,
    pub volume_name: [u8; 16],
    pub checksum: bool,
    /// Whether addresses have 48 bits, needed or not.
    pub wide: bool,
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
            uuid: None,
            volume_name: [0; 16],
            checksum: true,
            wide: false,
            features: Incompat::empty(),
            codec_bits: 0,
            codec_records: Vec::new(),
        }
    }

    /// An image as `options` say, whose data end before block `meta_block` and need these features and codecs.
    pub(super) fn of_image(
        options: &ImageOptions<'_>,
        meta_block: u64,
        features: Incompat,
        (codec_bits, codec_records): (u16, Vec<u8>),
    ) -> Self {
        Self {
            meta_block,
            inline_data: options.inline_data,
            inode_form: options.inode_form,
            shared_xattr_uses: options.shared_xattr_uses,
            times: options.times,
            build_time: options.build_time,
            uuid: options.uuid,
            volume_name: options.volume_name,
            checksum: options.checksum,
            // The root is in the metabox, where the old 16 bits do not reach.
            wide: options.wide || options.metabox.is_some(),
            features,
            codec_bits,
            codec_records,
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
