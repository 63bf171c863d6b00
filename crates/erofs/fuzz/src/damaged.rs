//! Damaged images: the input's bytes decide what is done to which golden one.
//!
//! The first byte picks the image, every eight that follow are one decision of [`mutate`]. This needs no corpus: the
//! valid images are the golden ones.

use std::sync::LazyLock;

use crate::{mutate, seeds};

static IMAGES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(seeds::images);

/// The image that `bytes` make; `None` when there is not a single one.
pub fn image(bytes: &[u8]) -> Option<Vec<u8>> {
    let (&pick, decisions) = bytes.split_first()?;
    let mut image = IMAGES[usize::from(pick) % IMAGES.len()].clone();
    let mut decisions = decisions.chunks(8);
    mutate::mutate(&mut image, || {
        let mut number = [0; 8];
        let decision = decisions.next().unwrap_or_default();
        number[..decision.len()].copy_from_slice(decision);
        u64::from_le_bytes(number)
    });
    Some(image)
}
