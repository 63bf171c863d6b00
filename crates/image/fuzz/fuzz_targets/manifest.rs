//! A manifest of any bytes.
//!
//! Invariants: reading ends in a composition or an error with a readable text; every layer of a composition that was
//! taken has its index inside its blob, or one of its own, and a SHA-256 that vouches for it.

#![cfg_attr(fuzzing, no_main)]

use larder_image::digest::{require_sha256, sha256};
use larder_image::manifest::Composition;

fn seeds() -> Vec<Vec<u8>> {
    let manifests: [&[u8]; 2] = [
        include_bytes!("../seeds/manifest/standalone-index"),
        include_bytes!("../seeds/manifest/two-layers"),
    ];
    manifests.map(<[u8]>::to_vec).to_vec()
}

larder_fuzz::fuzz_target!(seeds, |bytes| {
    match Composition::read(bytes, &sha256(bytes)) {
        Ok(composition) => {
            for layer in composition.layers() {
                assert!(layer.data_end() <= layer.descriptor.size());
                require_sha256(layer.index_digest(), "index").expect("checked");
                require_sha256(layer.descriptor.digest(), "layer").expect("checked");
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
