//! All that is unsafe in this crate.
#![expect(unsafe_code, reason = "the processor's instructions for SHA-256")]

mod sha256;
mod sha256_lanes;

pub(crate) use sha256::{Blocks, compress_two};
pub(crate) use sha256_lanes::{LANES, compress_lanes};
