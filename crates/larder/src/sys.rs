//! Calls that rustix does not wrap: the allocator's knobs.
#![expect(unsafe_code, reason = "glibc's malloc controls have no safe wrapper")]

/// Keeps the allocator to two arenas: each would hold on to its own peak.
pub fn limit_malloc_arenas() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two integers and touches only the allocator's own state; it is called before other
    // threads exist.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

/// Gives freed memory back to the kernel: called after big jobs, never on a fault's path.
pub fn trim_malloc() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim is thread-safe and takes no pointers.
    unsafe {
        libc::malloc_trim(0);
    }
}
