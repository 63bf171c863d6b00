//! [`Error`]: why a file of an image could not be read.

use larder_erofs::{DeviceId, Nid};
use larder_fscache::ObjectRange;
use larder_ondemand::FillError;

/// Why a file of an image could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The metadata does not say where the bytes are.
    #[error("inode {nid}: its bytes cannot be found")]
    Metadata {
        /// The file.
        nid: Nid,
        /// The cause below.
        #[source]
        source: larder_erofs::Error,
    },
    /// The image names more or fewer devices than there are.
    #[error("the image names {expected} devices, but {found} were given")]
    DeviceCount {
        /// Slots of the device table.
        expected: usize,
        /// Devices given.
        found: usize,
    },
    /// The bytes lie on a device that there is not.
    #[error("inode {nid}: its bytes lie on device {device}, and there are {count}")]
    NoDevice {
        /// The file.
        nid: Nid,
        /// The device.
        device: DeviceId,
        /// Devices there are.
        count: usize,
    },
    /// The metadata points past the end of a device.
    #[error("inode {nid}: its bytes {range} lie outside device {device} of {size} bytes")]
    OutsideDevice {
        /// The file.
        nid: Nid,
        /// The device.
        device: DeviceId,
        /// What was wanted of it.
        range: ObjectRange,
        /// Its length in bytes.
        size: u64,
    },
    /// The bytes could not be brought.
    #[error("inode {nid}: its bytes on device {device} could not be brought")]
    Fill {
        /// The file.
        nid: Nid,
        /// The device.
        device: DeviceId,
        /// The cause below.
        #[source]
        source: FillError,
    },
    /// The bytes were brought and are not there: the second miss.
    #[error("inode {nid}: {range} of device {device} is missing after it was brought")]
    SecondMiss {
        /// The file.
        nid: Nid,
        /// The device.
        device: DeviceId,
        /// What is missing.
        range: ObjectRange,
    },
    /// The cache could not be read.
    #[error("inode {nid}: the cache of device {device} could not be read")]
    Cache {
        /// The file.
        nid: Nid,
        /// The device.
        device: DeviceId,
        /// The cause below.
        #[source]
        source: larder_fscache::Error,
    },
    /// The read was given up: the daemon is shutting down.
    #[error("inode {nid}: the read was given up")]
    Abandoned {
        /// The file.
        nid: Nid,
    },
}

impl Error {
    /// The error number that a reader gets.
    pub fn errno(&self) -> i32 {
        const EIO: i32 = 5;
        match self {
            Self::Metadata { source, .. } => source.errno(),
            Self::Fill { source, .. } => source.errno(),
            Self::Cache { source, .. } => match source {
                larder_fscache::Error::Hole { .. } => EIO,
                other => other.errno(),
            },
            Self::DeviceCount { .. }
            | Self::NoDevice { .. }
            | Self::OutsideDevice { .. }
            | Self::SecondMiss { .. }
            | Self::Abandoned { .. } => EIO,
        }
    }

    /// What the operator can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Metadata { .. }
            | Self::DeviceCount { .. }
            | Self::NoDevice { .. }
            | Self::OutsideDevice { .. } => {
                Some("the image is damaged: rebuild it, or fetch it from elsewhere")
            }
            Self::Fill { source, .. } => source.hint(),
            Self::Cache { source, .. } => source.hint(),
            Self::SecondMiss { .. } => Some("check the cache's file system for errors"),
            Self::Abandoned { .. } => None,
        }
    }
}
