//! The tests of this crate, in one program: it is linked once, and the compiler finds what nobody uses in `common`.
//!
//! Tests that are keepers, which must begin with one thread, are programs of their own, beside this folder.

mod common;

mod cachefiles_mount;
mod fuse_blob_caching;
mod kernel_mount;
mod mount_identity;
mod never_begun;
mod passthrough_mount;
mod present_fault;
mod tree;
mod unprivileged;
