//! A reference of any text.
//!
//! Invariants: parsing ends in a reference or an error; a reference that was taken prints as one that means the same;
//! no repository name leaves its place.
//!
//! Run with `cargo +nightly fuzz run reference`.

#![no_main]

use larder_image::Reference;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(reference) = text.parse::<Reference>() else { return };
    assert_eq!(reference.to_string().parse::<Reference>().expect("it prints as one"), reference);
    if let Reference::Registry { repository, .. } = &reference {
        assert!(!repository.split('/').any(|part| part.is_empty() || part == "." || part == ".."));
    }
});
