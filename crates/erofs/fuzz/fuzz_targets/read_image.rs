//! Opens any bytes as an image and does all that a reader can do.
//!
//! Invariants stand in `exercise.rs`, which the tests use too. The superblock is made to pass first, so that
//! the fuzzer need not guess a magic number and a checksum.

#![cfg_attr(fuzzing, no_main)]

use larder_erofs_fuzz::{exercise, seeds};

const SUPERBLOCK_AT: usize = 1024;
const MAGIC: [u8; 4] = 0xE0F5_E1E2_u32.to_le_bytes();

larder_fuzz::fuzz_target!(seeds::images, |bytes| {
    let mut bytes = bytes.to_vec();
    if let Some(superblock) = bytes.get_mut(SUPERBLOCK_AT..SUPERBLOCK_AT + 128) {
        superblock[..4].copy_from_slice(&MAGIC);
        superblock[8] &= !1;
    }
    exercise::exercise(&bytes);
});
