//! [`Mapping`]: shared memory as atomic words.
#![expect(unsafe_code, reason = "mmap and the view of its bytes as atomics have no safe form")]

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::AtomicU64;

use rustix::ffi::c_void;
use rustix::fs::{SealFlags, fcntl_get_seals, fstat};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A memory file, mapped shared and writable for as long as this lives.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<c_void>,
    words: usize,
}

impl Mapping {
    /// Maps the first `words` 64-bit words of `memfd`.
    ///
    /// # Errors
    ///
    /// When the file is shorter, or not sealed against shrinking: a page taken away under a mapping would
    /// end the process with SIGBUS.
    pub fn new(memfd: BorrowedFd<'_>, words: usize) -> io::Result<Self> {
        let invalid = |reason| io::Error::new(io::ErrorKind::InvalidInput, reason);
        let bytes =
            words.checked_mul(size_of::<AtomicU64>()).ok_or_else(|| invalid("the mapping is too long"))?;
        if !fcntl_get_seals(memfd)?.contains(SealFlags::SHRINK) {
            return Err(invalid("the memory file could shrink"));
        }
        let len = u64::try_from(fstat(memfd)?.st_size).unwrap_or(0);
        if bytes == 0 || len < bytes as u64 {
            return Err(invalid("the memory file is too short"));
        }
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe { mmap(ptr::null_mut(), bytes, access, MapFlags::SHARED, memfd, 0) }?;
        let start = NonNull::new(start).ok_or_else(|| invalid("the kernel mapped address zero"))?;
        Ok(Self { start, words })
    }

    /// The words. Other processes may change them at any time, which is what atomics are for.
    pub fn words(&self) -> &[AtomicU64] {
        let start = self.start.cast::<AtomicU64>();
        // SAFETY: `words` words are mapped from `start`, page-aligned, until drop; the file cannot shrink;
        // every bit pattern is an AtomicU64, and nothing makes a plain reference to the memory.
        unsafe { slice::from_raw_parts(start.as_ptr(), self.words) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `new` mapped, and no reference outlives `self`.
        let unmapped = unsafe { munmap(self.start.as_ptr(), self.words * size_of::<AtomicU64>()) };
        debug_assert!(unmapped.is_ok(), "what was mapped can be unmapped: {unmapped:?}");
    }
}

// SAFETY: the memory belongs to the mapping, not to a thread.
unsafe impl Send for Mapping {}

// SAFETY: shared access goes through atomics only.
unsafe impl Sync for Mapping {}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, fcntl_add_seals, ftruncate, memfd_create};
    use std::os::fd::{AsFd, OwnedFd};
    use std::sync::atomic::Ordering;

    fn memfd(len: u64, seals: SealFlags) -> OwnedFd {
        let fd = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("memory");
        ftruncate(&fd, len).expect("memory");
        fcntl_add_seals(&fd, seals).expect("sealable");
        fd
    }

    #[test]
    fn two_mappings_of_one_file_are_the_same_memory() {
        let fd = memfd(4096, SealFlags::SHRINK);
        let one = Mapping::new(fd.as_fd(), 512).expect("mapped");
        let two = Mapping::new(fd.as_fd(), 512).expect("mapped");
        one.words()[511].store(7, Ordering::Release);
        assert_eq!(two.words()[511].load(Ordering::Acquire), 7);
    }

    #[test]
    fn a_file_that_could_shrink_or_is_too_short_is_not_mapped() {
        assert!(Mapping::new(memfd(4096, SealFlags::empty()).as_fd(), 512).is_err());
        assert!(Mapping::new(memfd(4096, SealFlags::SHRINK).as_fd(), 513).is_err());
        assert!(Mapping::new(memfd(4096, SealFlags::SHRINK).as_fd(), 0).is_err());
        assert!(Mapping::new(memfd(4096, SealFlags::SHRINK).as_fd(), usize::MAX).is_err());
    }
}
