//! Contents: of directories and links from the metadata, of files through whoever has the devices.

use std::io;

use super::{ExtentKind, Image};
use crate::{Error, FileType, Inode, LogicalAddr, ReadDevice};

/// The longest target a symbolic link may have: `PATH_MAX`.
const SYMLINK_BYTES_MAX: u64 = 4096;

impl Image {
    /// Reads the target of a symbolic link.
    ///
    /// # Errors
    ///
    /// [`Error::NotSymlink`], and [`Error::SymlinkTarget`] when the target is empty, holds a NUL or is
    /// longer than 4096 bytes.
    pub fn read_link(&self, inode: &Inode) -> Result<Vec<u8>, Error> {
        if inode.kind != FileType::Symlink {
            return Err(Error::NotSymlink { nid: inode.nid });
        }
        let bad = Error::SymlinkTarget { nid: inode.nid, len: inode.size };
        if !(1..=SYMLINK_BYTES_MAX).contains(&inode.size) {
            return Err(bad);
        }
        let Ok(len) = usize::try_from(inode.size) else { return Err(bad) };
        let mut target = vec![0; len];
        self.read_contents(inode, LogicalAddr::new(0), &mut target)?;
        if target.contains(&0) { Err(bad) } else { Ok(target) }
    }

    /// Fills `buf` with file contents from `at`; `read_device` reads the extra devices.
    ///
    /// Meant for tools and tests: a cache asks [`map`](Self::map) and fetches by itself.
    ///
    /// # Errors
    ///
    /// [`Error::PastEnd`] when the range passes the end of the file; else as [`map`](Self::map), and
    /// [`Error::Read`] or [`Error::ReadDevice`] when a device fails.
    pub fn read_exact_at(
        &self,
        inode: &Inode,
        at: LogicalAddr,
        buf: &mut [u8],
        read_device: &mut ReadDevice<'_>,
    ) -> Result<(), Error> {
        let mut at = at;
        let mut rest = buf;
        while !rest.is_empty() {
            let extent = self.map(inode, at)?;
            let len = usize::try_from(extent.len).map_or(rest.len(), |len| len.min(rest.len()));
            if len == 0 {
                return Err(Error::PastEnd { nid: inode.nid, at });
            }
            let (piece, after) = rest.split_at_mut(len);
            match extent.kind {
                ExtentKind::Hole => piece.fill(0),
                ExtentKind::Meta { pa } => self.read_meta(pa, piece)?,
                ExtentKind::Device { device, pa } => read_device(device, pa, piece)
                    .map_err(|source| Error::ReadDevice { device, at: pa, len, source })?,
            }
            at = at.checked_add(len as u64).ok_or(Error::AddressOverflow { nid: inode.nid, at })?;
            rest = after;
        }
        Ok(())
    }

    /// Fills `buf` with contents that must lie on the primary device, as all metadata does.
    pub(super) fn read_contents(&self, inode: &Inode, at: LogicalAddr, buf: &mut [u8]) -> Result<(), Error> {
        let mut elsewhere = None;
        let result = self.read_exact_at(inode, at, buf, &mut |device, _, _| {
            elsewhere = Some(device);
            Err(io::ErrorKind::Unsupported.into())
        });
        match elsewhere {
            Some(device) => Err(Error::MetadataOnDevice { nid: inode.nid, device }),
            None => result,
        }
    }
}
