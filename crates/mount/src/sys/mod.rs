//! The system calls that neither std nor rustix wraps: the only place of this crate with unsafe code.
//!
//! Descriptors cross as `OwnedFd` and `BorrowedFd`; everything that parses what the kernel wrote works on byte
//! slices and lies outside.

pub(crate) mod cachefiles;
pub(crate) mod child;
pub(crate) mod fanotify;
pub(crate) mod fuse;
pub(crate) mod memory;
pub(crate) mod mount;
pub(crate) mod namespace;
pub(crate) mod process;
