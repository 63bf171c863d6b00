//! All that is unsafe in this crate.
#![cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "the processor's instructions for SHA-256"))]

mod sha256;
mod sha256_lanes;

pub(crate) use sha256::{Blocks, compress_two};
pub(crate) use sha256_lanes::{LANES, compress_lanes};
