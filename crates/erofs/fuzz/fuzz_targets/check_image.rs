//! Damages a golden image as the input says (`damaged.rs`) and checks it as `fsck` does.
//!
//! Invariants: no panic, no loop, the report is bounded, and faults of inodes name an inode.

#![cfg_attr(fuzzing, no_main)]

use larder_erofs::check::{Options, check};
use larder_erofs::{DeviceMode, Image};
use larder_erofs_fuzz::damaged;

larder_fuzz::fuzz_target!(Vec::new, |bytes| {
    let Some(image) = damaged::image(bytes) else { return };
    if let Ok((image, checksum)) = Image::open_unverified(image, DeviceMode::Flat) {
        let options = Options { faults_max: 100, ..Options::default() };
        let report = check(&image, &[], checksum, &options);
        assert!(report.faults.len() <= 100);
        assert!(report.faults.iter().all(|fault| fault.path.is_none() || fault.nid.is_some()));
    }
});
