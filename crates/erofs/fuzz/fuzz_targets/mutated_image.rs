//! Damages a golden image as the fuzzer's bytes say and does all that a reader can do. Run in `crates/erofs`:
//!
//! ```text
//! cargo +nightly fuzz run mutated_image -- -rss_limit_mb=512 -max_len=512 -timeout=10
//! ```
//!
//! The first byte picks the image, every eight that follow are one decision of `mutate.rs`. This needs no corpus:
//! the valid images are in `tests/golden`. Invariants stand in `exercise.rs`.

#![no_main]

#[path = "../../tests/support/exercise.rs"]
mod exercise;
#[path = "../../tests/support/golden.rs"]
mod golden;
#[path = "../../tests/support/mutate.rs"]
mod mutate;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static IMAGES: LazyLock<Vec<Vec<u8>>> =
    LazyLock::new(|| golden::RECIPES.iter().map(|(name, _)| golden::image(name)).collect());

fuzz_target!(|bytes: &[u8]| {
    let Some((&pick, decisions)) = bytes.split_first() else { return };
    let mut image = IMAGES[usize::from(pick) % IMAGES.len()].clone();
    let mut decisions = decisions.chunks(8);
    mutate::mutate(&mut image, || {
        let mut number = [0; 8];
        let decision = decisions.next().unwrap_or_default();
        number[..decision.len()].copy_from_slice(decision);
        u64::from_le_bytes(number)
    });
    exercise::exercise(&image);
});
