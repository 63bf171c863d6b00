//! [`Error`]: why a read got no bytes.

use larder_erofs::{DeviceId, Nid};
use larder_fscache::ObjectRange;
use larder_ondemand::FillError;

/// Why a read got no bytes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The metadata is damaged, or a device could not be read after it was filled.
    #[error(transparent)]
    Image(#[from] larder_erofs::Error),
    /// A hole could not be filled.
    #[error("inode {nid}: its data could not be brought")]
    Fill {
        /// The file that was read.
        nid: Nid,
        /// Why not.
        #[source]
        source: FillError,
    },
    /// The image points outside one of its blobs.
    #[error("inode {nid}: {range} of device {device} lies outside the blob")]
    OutsideBlob {
        /// The file that was read.
        nid: Nid,
        /// The device.
        device: DeviceId,
        /// Where it points.
        range: ObjectRange,
    },
    /// The image names more or fewer devices than there are blobs.
    #[error("the image has {expected} devices, but {found} blobs were given")]
    DeviceCount {
        /// Slots of the device table.
        expected: usize,
        /// Blobs that were given.
        found: usize,
    },
}

impl Error {
    /// The error number that a reader gets.
    pub fn errno(&self) -> i32 {
        const EIO: i32 = 5;
        match self {
            Self::Image(error) => error.errno(),
            Self::Fill { source, .. } => source.errno(),
            Self::OutsideBlob { .. } | Self::DeviceCount { .. } => EIO,
        }
    }

    /// What the operator can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Image(error) => error.hint(),
            Self::Fill { source, .. } => source.hint(),
            Self::OutsideBlob { .. } | Self::DeviceCount { .. } => {
                Some("the image is damaged: build it again")
            }
        }
    }
}
