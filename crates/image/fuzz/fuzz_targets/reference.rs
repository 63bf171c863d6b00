//! A reference of any text.
//!
//! Invariants: parsing ends in a reference or an error; a reference that was taken prints as one that means the same;
//! no repository name leaves its place.

#![cfg_attr(fuzzing, no_main)]

use larder_image::Reference;

fn seeds() -> Vec<Vec<u8>> {
    let digest = format!("registry.example:5000/a/b@sha256:{}", "0123456789abcdef".repeat(4));
    [
        "alpine",
        "docker.io/library/alpine:3.20",
        "localhost:5000/a-b/c_d:tag",
        "oci:/a/layout:tag",
        "oci:dir",
        &digest,
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

larder_fuzz::fuzz_target!(seeds, |bytes| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(reference) = text.parse::<Reference>() else { return };
    assert_eq!(reference.to_string().parse::<Reference>().expect("it prints as one"), reference);
    if let Reference::Registry { repository, .. } = &reference {
        assert!(!repository.split('/').any(|part| part.is_empty() || part == "." || part == ".."));
    }
});
