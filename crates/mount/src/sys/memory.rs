//! Shared memory that outlives the process: an array of atomic words over a memfd.
#![expect(unsafe_code, reason = "maps a memfd")]

use std::io;
use std::ops::Deref;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A shared mapping of a whole memfd, seen as 64-bit atomic words.
pub(crate) struct SharedWords {
    start: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the memory is shared and only reached through atomics.
unsafe impl Send for SharedWords {}
// SAFETY: as above.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// Maps the first `words` words of `memfd`, which must be at least that long and sealed against shrinking.
    pub(crate) fn map(memfd: BorrowedFd<'_>, words: usize) -> io::Result<Self> {
        let bytes = words.checked_mul(8).filter(|&n| n > 0).ok_or(io::ErrorKind::InvalidInput)?;
        let size = rustix::fs::fstat(memfd)?.st_size;
        let seals = rustix::fs::fcntl_get_seals(memfd)?;
        if u64::try_from(size).unwrap_or(0) < bytes as u64 || !seals.contains(rustix::fs::SealFlags::SHRINK) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing of ours.
        let start = unsafe { mmap(std::ptr::null_mut(), bytes, protection, flags, memfd, 0) }?;
        let start = NonNull::new(start.cast::<AtomicU64>()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, words })
    }
}

impl Deref for SharedWords {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is that long, page-aligned, cannot shrink (sealed) and lives as long as self.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `map` with this length; no reference outlives self.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.words * 8) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
    use std::os::fd::AsFd;
    use std::sync::atomic::Ordering;

    #[test]
    fn two_mappings_of_one_memfd_see_each_others_words() {
        let memfd = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&memfd, 4096).unwrap();
        fcntl_add_seals(&memfd, SealFlags::SHRINK).unwrap();
        let one = SharedWords::map(memfd.as_fd(), 512).unwrap();
        let two = SharedWords::map(memfd.as_fd(), 512).unwrap();
        one[511].store(7, Ordering::Release);
        assert_eq!(two[511].load(Ordering::Acquire), 7);
    }

    #[test]
    fn a_memfd_that_is_short_or_could_shrink_is_refused() {
        let memfd = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&memfd, 4096).unwrap();
        assert!(SharedWords::map(memfd.as_fd(), 512).is_err(), "not sealed");
        fcntl_add_seals(&memfd, SealFlags::SHRINK).unwrap();
        assert!(SharedWords::map(memfd.as_fd(), 513).is_err(), "too short");
    }
}
