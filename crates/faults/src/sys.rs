//! [`Mapping`]: a file as atomic words, and [`die`]. All that is unsafe in this crate.
#![expect(unsafe_code, reason = "mmap and the view of its bytes as atomics have no safe form")]

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::AtomicU64;

use rustix::ffi::c_void;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::process::{Signal, getpid, kill_process};

/// A file, mapped shared and writable for as long as this lives. Whoever made it does not make it shorter.
pub(crate) struct Mapping {
    start: NonNull<c_void>,
    words: usize,
}

impl Mapping {
    /// Maps the first `words` 64-bit words of `file`, which is at least that long.
    pub fn new(file: BorrowedFd<'_>, words: usize) -> io::Result<Self> {
        let bytes = words * size_of::<AtomicU64>();
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe { mmap(ptr::null_mut(), bytes, access, MapFlags::SHARED, file, 0) }?;
        let start = NonNull::new(start).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self { start, words })
    }

    /// The words. Other processes may change them at any time, which is what atomics are for.
    pub fn words(&self) -> &[AtomicU64] {
        let start = self.start.cast::<AtomicU64>();
        // SAFETY: `words` words are mapped from `start`, page-aligned, until drop; every bit pattern is an AtomicU64,
        // and nothing makes a plain reference to the memory.
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

/// Ends the process as `kill -9` does: nothing is flushed, dropped or said.
pub(crate) fn die() -> ! {
    loop {
        if kill_process(getpid(), Signal::KILL).is_ok() {
            // Another thread may be the one that the kernel stops first.
            std::thread::park();
        }
    }
}
