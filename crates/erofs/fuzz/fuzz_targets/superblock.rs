//! Reads a superblock with its codec configurations from any bytes. Run in `crates/erofs`:
//!
//! ```text
//! cargo +nightly fuzz run superblock -- -rss_limit_mb=512 -timeout=10
//! ```
//!
//! Invariants: no panic, no loop, no memory by what the bytes say.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| larder_erofs::fuzzing::superblock(bytes));
