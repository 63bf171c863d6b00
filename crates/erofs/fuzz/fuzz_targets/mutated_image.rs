//! Damages a golden image as the input says (`damaged.rs`) and does all that a reader can do.
//!
//! Invariants stand in `exercise.rs`.

#![cfg_attr(fuzzing, no_main)]

use larder_erofs_fuzz::{damaged, exercise};

larder_fuzz::fuzz_target!(Vec::new, |bytes| {
    let Some(image) = damaged::image(bytes) else { return };
    exercise::exercise(&image);
});
