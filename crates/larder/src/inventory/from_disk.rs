//! Reading what the disk has, not what memory remembers of it.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use rustix::fs::{Advice, fadvise};

/// Makes the data of a file durable. By a description of its own: an error of an earlier write is told once to each, and the
/// cache has to hear of it by its.
///
/// # Errors
///
/// What the system says.
pub fn sync(file: BorrowedFd<'_>) -> io::Result<()> {
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?.sync_data()
}

/// Drops what memory has of a file: what is read next comes from the disk. What is not durable yet stays, and so does what
/// somebody has mapped. Of the whole file, since memory keeps a large folio of which only a part is named.
///
/// # Errors
///
/// What the system says.
pub fn forget(file: BorrowedFd<'_>) -> io::Result<()> {
    Ok(fadvise(file, 0, None, Advice::DontNeed)?)
}

#[cfg(test)]
mod tests {
    use std::io::{IoSliceMut, Write as _};
    use std::os::fd::AsFd as _;

    use rustix::io::{Errno, ReadWriteFlags, preadv2};

    use super::*;

    /// Whether memory has a page of a file; the error of a file system that does not say.
    fn remembers(file: &File, at: u64) -> Result<bool, Errno> {
        let mut page = [0; 4096];
        match preadv2(file, &mut [IoSliceMut::new(&mut page)], at, ReadWriteFlags::NOWAIT) {
            Ok(read) => Ok(read == page.len()),
            Err(Errno::AGAIN) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    #[test]
    fn what_is_durable_is_read_from_the_disk_again() {
        // Not on a tmpfs, which is memory.
        let mut file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).expect("a file");
        file.write_all(&[7; 16 * 4096]).expect("space");
        if let Err(errno) = remembers(&file, 0) {
            eprintln!("skipped: the file system does not say what memory has ({errno})");
            return;
        }
        sync(file.as_fd()).expect("a healthy disk");
        let pages = [0, 5, 15].map(|page| page * 4096);
        assert_eq!(pages.map(|at| remembers(&file, at)), [Ok(true); 3]);
        forget(file.as_fd()).expect("a file");
        assert_eq!(pages.map(|at| remembers(&file, at)), [Ok(false); 3]);
    }
}
