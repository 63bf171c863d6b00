//! [`LocalImage`] through FUSE, without a cache or a daemon.

use larder_erofs::{Image, Inode};
use larder_mount::fuse::{Data, ImageContents, Outcome, ReadAt};

use super::open::LocalImage;

impl ImageContents for LocalImage {
    fn image(&self) -> &Image {
        LocalImage::image(self)
    }

    fn read(&self, inode: Inode, at: ReadAt, buf: &mut Vec<u8>) -> Outcome<Data> {
        let left = inode.size.saturating_sub(at.offset);
        let len = usize::try_from(left).map_or(at.len, |left| left.min(at.len));
        // A larger buffer of an earlier read stays filled: zeros are written only once.
        if buf.len() < len {
            buf.resize(len, 0);
        }
        buf.truncate(len);
        match LocalImage::read(self, &inode, at.offset, buf) {
            Ok(()) => Outcome::Now(Ok(Data::InBuffer)),
            Err(error) => {
                tracing::warn!(%error, "the image cannot be read");
                Outcome::error(error.errno())
            }
        }
    }
}
