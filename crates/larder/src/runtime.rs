//! The async runtimes of the program: a small one for commands, a bounded one for the worker.

use std::io;

use larder_ondemand::EngineConfig;
use tokio::runtime::{Builder, Runtime};

use crate::store::LOOKING_MAX;

/// Stack of runtime threads in bytes. Nothing on them recurses; fills decode on the blocking pool.
const STACK_BYTES: usize = 512 * 1024;

/// Images that are opened and mounted at once: each may hold up a thread that waits for a fill.
pub const OPENING_MAX: usize = 8;

/// Blocking threads at most: hashing, decoding and file writes, beside mounts, each of which may wait for those on a thread, and
/// beside readers of sources on this machine and who looks for these, which may hang.
const BLOCKING_MAX: usize = 8 + OPENING_MAX + EngineConfig::LANES_MAX + LOOKING_MAX;

/// The runtime of a command: the calling thread drives it.
///
/// # Errors
///
/// When the kernel refuses a descriptor.
pub fn for_command() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().max_blocking_threads(BLOCKING_MAX).build()
}

/// The runtime of the worker, and of commands that read images themselves.
///
/// # Errors
///
/// When the kernel refuses a thread or a descriptor.
pub fn for_worker() -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(BLOCKING_MAX)
        .thread_stack_size(STACK_BYTES)
        .thread_name("larder")
        .enable_all()
        .build()
}
