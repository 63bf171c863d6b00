//! Damages a golden image as the fuzzer's bytes say and checks it as `fsck` does. Run in `crates/erofs`:
//!
//! ```text
//! cargo +nightly fuzz run check_image -- -rss_limit_mb=512 -max_len=512 -timeout=10
//! ```
//!
//! As `mutated_image`: the first byte picks the image, every eight that follow are one decision of `mutate.rs`.
//! Invariants: no panic, no loop, the report is bounded, and faults of inodes name an inode.

#![no_main]

#[path = "../../tests/support/golden.rs"]
mod golden;
#[path = "../../tests/support/mutate.rs"]
mod mutate;

use std::sync::LazyLock;

use larder_erofs::check::{Options, check};
use larder_erofs::{DeviceMode, Image};
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
    if let Ok((image, checksum)) = Image::open_unverified(image, DeviceMode::Flat) {
        let options = Options { faults_max: 100, ..Options::default() };
        let report = check(&image, &[], checksum, &options);
        assert!(report.faults.len() <= 100);
        assert!(report.faults.iter().all(|fault| fault.path.is_none() || fault.nid.is_some()));
    }
});
