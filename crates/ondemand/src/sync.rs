//! Locks: those of std, which shuttle replaces in this crate's own unit tests, so that it can try the interleavings.

#[cfg(test)]
pub(crate) use shuttle::sync::{Mutex, MutexGuard};
#[cfg(not(test))]
pub(crate) use std::sync::{Mutex, MutexGuard};
