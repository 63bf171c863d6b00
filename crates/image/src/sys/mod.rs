//! All that is unsafe in this crate.
#![expect(unsafe_code, reason = "the processor's instructions for SHA-256")]

mod sha256;

pub(crate) use sha256::compress_two;
