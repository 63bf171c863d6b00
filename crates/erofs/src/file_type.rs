//! [`FileType`]: the seven kinds of inode, and [`Rdev`], the number of a device node.

use std::fmt;

/// What an inode is; the bits under `S_IFMT`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum FileType {
    /// Regular file.
    Regular,
    /// Directory.
    Directory,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
    /// FIFO.
    Fifo,
    /// Socket.
    Socket,
    /// Symbolic link.
    Symlink,
}

impl FileType {
    /// Every kind with its `S_IFMT` bits and its directory entry number.
    const TABLE: [(Self, u16, u8); 7] = [
        (Self::Regular, 0o100_000, 1),
        (Self::Directory, 0o040_000, 2),
        (Self::CharDevice, 0o020_000, 3),
        (Self::BlockDevice, 0o060_000, 4),
        (Self::Fifo, 0o010_000, 5),
        (Self::Socket, 0o140_000, 6),
        (Self::Symlink, 0o120_000, 7),
    ];

    /// Reads the kind out of a POSIX mode; `None` for bits that name none.
    pub fn from_mode(mode: u16) -> Option<Self> {
        Self::TABLE.iter().find(|row| row.1 == mode & 0o170_000).map(|row| row.0)
    }

    /// Reads the `file_type` of a directory entry; `None` for 0 (unknown) and for numbers not given out.
    pub fn from_dirent(number: u8) -> Option<Self> {
        Self::TABLE.iter().find(|row| row.2 == number).map(|row| row.0)
    }

    /// The bits under `S_IFMT`.
    pub fn mode_bits(self) -> u16 {
        self.row().1
    }

    /// The `file_type` of a directory entry.
    pub fn dirent_number(self) -> u8 {
        self.row().2
    }

    /// Whether the inode has a device number instead of data.
    pub fn is_device(self) -> bool {
        matches!(self, Self::CharDevice | Self::BlockDevice)
    }

    /// Whether the inode has contents: files, directories and symbolic links.
    pub fn has_data(self) -> bool {
        matches!(self, Self::Regular | Self::Directory | Self::Symlink)
    }

    fn row(self) -> (Self, u16, u8) {
        let index = match self {
            Self::Regular => 0,
            Self::Directory => 1,
            Self::CharDevice => 2,
            Self::BlockDevice => 3,
            Self::Fifo => 4,
            Self::Socket => 5,
            Self::Symlink => 6,
        };
        Self::TABLE[index]
    }
}

impl fmt::Display for FileType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Regular => "regular file",
            Self::Directory => "directory",
            Self::CharDevice => "character device",
            Self::BlockDevice => "block device",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
            Self::Symlink => "symbolic link",
        })
    }
}

/// A device number in the kernel's 32-bit encoding: 12 bits of major, 20 bits of minor.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Rdev(u32);

impl Rdev {
    /// Wraps the encoded form: `new_encode_dev()`, include/linux/kdev_t.h (v7.3).
    pub const fn from_encoded(encoded: u32) -> Self {
        Self(encoded)
    }

    /// Encodes a number, or `None` when a part is too large for the kernel.
    pub fn new(major: u32, minor: u32) -> Option<Self> {
        (major < 1 << 12 && minor < 1 << 20)
            .then_some(Self((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)))
    }

    /// The encoded form, which is also what FUSE carries.
    pub const fn encoded(self) -> u32 {
        self.0
    }

    /// The major number.
    pub const fn major(self) -> u32 {
        (self.0 >> 8) & 0xfff
    }

    /// The minor number.
    pub const fn minor(self) -> u32 {
        (self.0 & 0xff) | ((self.0 >> 12) & !0xff)
    }
}

impl fmt::Display for Rdev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major(), self.minor())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_both_encodings() {
        for (kind, mode, number) in FileType::TABLE {
            assert_eq!(FileType::from_mode(mode | 0o7777), Some(kind));
            assert_eq!(FileType::from_dirent(number), Some(kind));
            assert_eq!((kind.mode_bits(), kind.dirent_number()), (mode, number));
        }
        assert_eq!(FileType::from_mode(0o7777), None);
        assert_eq!((FileType::from_dirent(0), FileType::from_dirent(8)), (None, None));
    }

    #[test]
    fn large_minors_survive_and_larger_ones_are_refused() {
        for (major, minor) in [(0, 0), (1, 3), (8, 255), (259, 256), (4095, (1 << 20) - 1)] {
            let rdev = Rdev::new(major, minor).expect("within the kernel's range");
            assert_eq!((rdev.major(), rdev.minor()), (major, minor));
        }
        assert_eq!((Rdev::new(4096, 0), Rdev::new(0, 1 << 20)), (None, None));
    }
}
