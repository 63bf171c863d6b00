//! Reads the extended attributes of a file of the host, never following a link.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::PathBuf;

use rustix::fs::{lgetxattr, llistxattr};
use rustix::io::Errno;

use super::host::is_short;
use crate::Xattr;
use crate::error::path_of;
use crate::xattr::split;

/// `XATTR_LIST_MAX` and `XATTR_SIZE_MAX`: no list and no value is larger.
const BYTES_MAX: usize = 65536;
/// What nearly every list and value fits into: the kernel makes room for as much as it is offered, each time.
const BYTES_USUAL: usize = 1024;

/// Reads attributes into buffers that are used again.
#[derive(Debug)]
pub(super) struct XattrReader {
    list: Vec<u8>,
    value: Vec<u8>,
}

/// Why the attributes of a file could not be read: which one, or the list itself.
#[derive(Debug)]
pub(super) struct XattrError {
    pub name: Option<PathBuf>,
    pub source: io::Error,
}

/// The attributes of a file, and how many EROFS has no prefix for.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub xattrs: Vec<Xattr>,
    pub skipped: u64,
}

impl XattrReader {
    pub(super) fn new() -> Self {
        Self { list: vec![0; BYTES_MAX], value: vec![0; BYTES_MAX] }
    }

    /// Reads the attributes of `name` in `dir`, which lies at `path`.
    pub(super) fn read(
        &mut self,
        path: PathBuf,
        dir: BorrowedFd<'_>,
        name: &[u8],
    ) -> Result<Found, XattrError> {
        // Neither O_PATH descriptors nor directory descriptors plus a name will do for these calls.
        let path = if is_short(&path) {
            path
        } else {
            PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(path_of(name))
        };
        let failed = |name: Option<&[u8]>, errno: Errno| XattrError {
            name: name.map(path_of),
            source: io::Error::from(errno),
        };
        let mut found = Found::default();
        let len = match whole(&mut self.list, |list| llistxattr(&path, list)) {
            Ok(len) => len,
            Err(Errno::OPNOTSUPP) => return Ok(found),
            Err(errno) => return Err(failed(None, errno)),
        };
        for name in self.list[..len].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
            if split(name).is_none() {
                found.skipped += 1;
                continue;
            }
            match whole(&mut self.value, |value| lgetxattr(&path, name, value)) {
                Ok(len) => {
                    found.xattrs.push(Xattr { name: name.to_vec(), value: self.value[..len].to_vec() });
                }
                // Listed but kept by the kernel, or gone since: as if it were not there.
                Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                Err(errno) => return Err(failed(Some(name), errno)),
            }
        }
        Ok(found)
    }
}

/// Has `read` fill a part of `buffer`, or all of it where that is too small.
fn whole(buffer: &mut [u8], read: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<usize, Errno> {
    match read(&mut buffer[..BYTES_USUAL]) {
        Err(Errno::RANGE) => read(buffer),
        done => done,
    }
}
