//! Damages a golden image as the input says (`damaged.rs`) and merges it as a layer.
//!
//! Invariants: no panic, no loop; what comes out can be opened.

#![cfg_attr(fuzzing, no_main)]

use larder_erofs_fuzz::{damaged, merge};

larder_fuzz::fuzz_target!(Vec::new, |bytes| {
    let Some(image) = damaged::image(bytes) else { return };
    merge::merge(&image);
});
