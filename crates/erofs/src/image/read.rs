//! Contents: of directories and links from the metadata, of files through whoever has the devices.

use std::io;

use super::extent::Mapper;
use super::{ExtentKind, Image};
use crate::addr::MetaAddr;
use crate::source::merge;
use crate::{Error, FileType, Inode, LogicalAddr, ReadDevice};

/// Extents that a read comes back to: a hostile image has one a byte.
const LEFT_MAX: usize = 16;

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
    /// Where parts are not here yet, the rest is tried nevertheless: [`Error::NotHere`] then names everything that
    /// this read lacks of the data, so that one round of bringing is enough once the metadata are here.
    ///
    /// # Errors
    ///
    /// [`Error::PastEnd`] when the range passes the end of the file; [`Error::NotHere`]; else as [`map`](Self::map),
    /// and when a device fails or a pcluster cannot be decoded. `buf` is then undefined.
    pub fn read_exact_at(
        &self,
        inode: &Inode,
        at: LogicalAddr,
        buf: &mut [u8],
        read_device: &mut ReadDevice<'_>,
    ) -> Result<(), Error> {
        let mut mapper = Mapper::new(self, inode);
        let (mut missing, mut left) = (Vec::new(), Vec::new());
        let (mut at, mut rest) = (at, buf);
        while !rest.is_empty() {
            let extent = match mapper.map(at) {
                Err(Error::NotHere { ranges }) => {
                    missing.extend(ranges);
                    break;
                }
                extent => extent?,
            };
            let len = usize::try_from(extent.len).map_or(rest.len(), |len| len.min(rest.len()));
            if len == 0 {
                return Err(Error::PastEnd { nid: inode.nid, at });
            }
            let (piece, after) = rest.split_at_mut(len);
            let wait = left.len() >= LEFT_MAX;
            match self.try_extent(inode, &extent.kind, piece, read_device, wait) {
                Ok(true) => {}
                Ok(false) => left.push((extent.kind, piece)),
                Err(Error::NotHere { ranges }) => missing.extend(ranges),
                Err(error) => return Err(error),
            }
            at = at.checked_add(len as u64).ok_or(Error::AddressOverflow { nid: inode.nid, at })?;
            rest = after;
        }
        // What others were decoding: while they did, the rest was done.
        for (kind, piece) in left {
            match self.read_extent(inode, &kind, piece, read_device) {
                Err(Error::NotHere { ranges }) => missing.extend(ranges),
                result => result?,
            }
        }
        if missing.is_empty() { Ok(()) } else { Err(Error::NotHere { ranges: merge(missing) }) }
    }

    /// Fills `piece` with the first bytes of an extent of `inode`, which has at least as many.
    ///
    /// For who goes through [`extents`](Self::extents): a pcluster that `piece` takes whole is decoded in place.
    ///
    /// # Errors
    ///
    /// As [`read_exact_at`](Self::read_exact_at), once the extent is known.
    pub fn read_extent(
        &self,
        inode: &Inode,
        kind: &ExtentKind,
        piece: &mut [u8],
        read_device: &mut ReadDevice<'_>,
    ) -> Result<(), Error> {
        self.try_extent(inode, kind, piece, read_device, true).map(drop)
    }

    /// The same; without `wait` it leaves what another reader is decoding just now, and returns `false`.
    fn try_extent(
        &self,
        inode: &Inode,
        kind: &ExtentKind,
        piece: &mut [u8],
        read_device: &mut ReadDevice<'_>,
        wait: bool,
    ) -> Result<bool, Error> {
        match *kind {
            ExtentKind::Hole => piece.fill(0),
            ExtentKind::Meta { pa } => self.read_meta(MetaAddr::Primary(pa.get()), piece)?,
            ExtentKind::Device { device, pa } => {
                let len = piece.len();
                read_device(device, pa, piece).map_err(|error| error.of_device(device, pa, len))?;
            }
            ExtentKind::Encoded(ref encoded) => {
                return self.read_encoded(inode, encoded, piece, read_device, wait);
            }
        }
        Ok(true)
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
