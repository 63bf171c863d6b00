//! How far the kernel reads ahead in a mount: the `read_ahead_kb` of its backing device info.
//!
//! A FUSE mount begins with 128 KiB, and the answer to INIT can only lower what it is set to when that comes
//! (fuse_init_out.max_readahead, process_init_reply() in fs/fuse/inode.c, v6.18): so it must not say the 128 KiB that were offered. It
//! also bounds the size of a READ.

use std::fs;
use std::path::Path;

use crate::target;

/// Sets it, in bytes; a user who may not is told nothing, since it is only about speed.
pub(super) fn set(mounted: &Path, bytes: u64) {
    let Some(device) = target::device(mounted) else { return };
    let file = format!("/sys/class/bdi/{device}/read_ahead_kb");
    if let Err(error) = fs::write(&file, (bytes / 1024).to_string()) {
        tracing::debug!(file, %error, "read-ahead stays as it is");
    }
}
