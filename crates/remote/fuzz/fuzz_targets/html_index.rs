//! Reads any text as a server's HTML index of a directory. Run in `crates/remote`:
//!
//! ```text
//! cargo +nightly fuzz run html_index fuzz/corpus/html_index fuzz/seeds/html_index -- -rss_limit_mb=512 -timeout=10
//! ```
//!
//! Invariants: no panic, no loop; what is listed are names of direct children, in order, each once.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(page) = std::str::from_utf8(bytes) {
        larder_remote::fuzzing::html_index(page);
    }
});
