//! The libraries in this process: the fill engine over fscache and cachefiles on a real directory, with faults in
//! every system call and every step of a fill, and a registry over HTTP that misbehaves.
//!
//! Readers compare; meanwhile blobs are closed, retired, invalidated, replaced by another version, resized, culled; the
//! cache is withdrawn and opened again as after a clean end, a death, or a fresh boot of the machine; disks fill up.

mod contents;
mod disk;
mod plan;
mod play;
mod reader;
mod shelf;
mod world;

pub use play::Hall;
