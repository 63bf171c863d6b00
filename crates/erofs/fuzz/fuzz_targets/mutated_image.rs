//! Damages a golden image as the input says (`damaged.rs`) and does all that a reader can do.
//!
//! Invariants stand in `exercise.rs`.

#![cfg_attr(fuzzing, no_main)]

#[path = "../support/damaged.rs"]
mod damaged;
#[path = "../../tests/support/exercise.rs"]
mod exercise;

larder_fuzz::fuzz_target!(Vec::new, |bytes| {
    let Some(image) = damaged::image(bytes) else { return };
    exercise::exercise(&image);
});
