//! One inode: its times, attributes, target, and where its contents lie.

use std::sync::Arc;

use super::fault::FaultKind;
use super::pool::{Job, Work};
use crate::{
    DeviceId, Encoded, Extent, ExtentKind, FileType, Inode, LogicalAddr, MetaSource, PhysicalAddr, Place,
    SourceError,
};

impl Work<'_> {
    /// Goes through a piece of an inode; the first piece takes what is there only once.
    pub fn go_through(&self, job: &Job, buffer: &mut Vec<u8>) {
        if job.start == 0 {
            self.once(&job.inode);
        }
        if job.inode.kind.has_data() {
            let stored = self.extents(job, buffer);
            self.advance(job.end - job.start, stored);
        }
    }

    fn once(&self, inode: &Inode) {
        if inode.mtime.nanoseconds > 999_999_999 {
            self.faults.inode(inode.nid, FaultKind::Nanoseconds { found: inode.mtime.nanoseconds });
        }
        if inode.kind == FileType::Symlink
            && let Err(error) = self.image.read_link(inode)
        {
            self.faults.inode(inode.nid, error);
        }
        self.xattrs(inode);
    }

    fn xattrs(&self, inode: &Inode) {
        let names = match self.image.xattr_names(inode) {
            Ok(names) => names,
            Err(error) => {
                self.faults.inode(inode.nid, error);
                return;
            }
        };
        for name in names.hidden {
            self.faults.inode(inode.nid, FaultKind::NameFilter { name });
        }
        let mut listed = names.listed;
        listed.sort_unstable();
        for pair in listed.windows(2).filter(|pair| pair[0] == pair[1]) {
            self.faults.inode(inode.nid, FaultKind::XattrTwice { name: pair[0].clone() });
        }
    }

    /// Goes through the extents that begin in the piece; returns how many bytes they take.
    fn extents(&self, job: &Job, buffer: &mut Vec<u8>) -> u64 {
        let inode = &job.inode;
        let mut stored = 0_u64;
        for extent in self.image.extents(inode, LogicalAddr::new(job.start)) {
            let extent = match extent {
                Ok(extent) => extent,
                Err(error) => {
                    self.faults.inode(inode.nid, error);
                    break;
                }
            };
            if extent.start.get() >= job.end {
                break;
            }
            match self.extent(inode, &extent, buffer) {
                Ok(bytes) => stored = stored.saturating_add(bytes),
                Err(kind) => {
                    if !self.faults.inode(inode.nid, kind) {
                        break;
                    }
                }
            }
        }
        stored
    }

    fn extent(&self, inode: &Inode, extent: &Extent, buffer: &mut Vec<u8>) -> Result<u64, FaultKind> {
        match extent.kind {
            ExtentKind::Hole => Ok(0),
            // Plain bytes are what they are: it is enough that they are there.
            ExtentKind::Meta { pa } => self.inside(extent.start, DeviceId::PRIMARY, pa, extent.len),
            ExtentKind::Device { device, pa } => self.inside(extent.start, device, pa, extent.len),
            ExtentKind::Encoded(encoded) => {
                self.encoded(inode, extent, &encoded, buffer)?;
                Ok(if encoded.skip == 0 { encoded.len.into() } else { 0 })
            }
        }
    }

    fn encoded(
        &self,
        inode: &Inode,
        extent: &Extent,
        encoded: &Encoded,
        buffer: &mut Vec<u8>,
    ) -> Result<(), FaultKind> {
        if let Place::Device { device, pa } = encoded.place {
            self.inside(extent.start, device, pa, encoded.len.into())?;
        }
        if !self.options.contents || self.seen.decoded_before(encoded) {
            return Ok(());
        }
        // Whole, so that it is decoded in place and not remembered.
        let whole = Encoded { skip: 0, ..*encoded };
        let out = first(buffer, encoded.decoded.into());
        self.image.read_extent(inode, &ExtentKind::Encoded(whole), out, &mut |device, at, buf| {
            read_device(self.devices, device, at, buf)
        })?;
        Ok(())
    }

    /// Checks that bytes lie within a device; returns how many there are.
    fn inside(
        &self,
        at: LogicalAddr,
        device: DeviceId,
        pa: PhysicalAddr,
        len: u64,
    ) -> Result<u64, FaultKind> {
        let end = self.device_len(device);
        match pa.checked_add(len) {
            Some(last) if last.get() <= end => Ok(len),
            _ => Err(FaultKind::Outside { at, device, pa, len, end }),
        }
    }
}

/// The first `len` bytes of a buffer that only grows: filling it with zeros each time would cost.
fn first(buffer: &mut Vec<u8>, len: u64) -> &mut [u8] {
    let len = usize::try_from(len).unwrap_or(0);
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    &mut buffer[..len]
}

fn read_device(
    devices: &[Arc<dyn MetaSource>],
    device: DeviceId,
    at: PhysicalAddr,
    buf: &mut [u8],
) -> Result<(), SourceError> {
    let source = device.slot().and_then(|slot| devices.get(slot));
    source.ok_or(std::io::ErrorKind::NotFound)?.read_exact_at(at, buf)
}
