//! What concerns the image as a whole: its length, its devices, its counts.

use std::sync::Arc;

use super::fault::{FaultKind, Faults};
use super::tree::Found;
use crate::{DeviceId, Image, MetaSource};

/// Checks lengths against what the superblock and the device table say.
pub(super) fn check(image: &Image, devices: &[Arc<dyn MetaSource>], faults: &Faults) {
    let superblock = image.superblock();
    let (blocks, block) = (superblock.blocks, superblock.block_size);
    let short = |blocks: u64, found: u64| {
        let needed = blocks.saturating_mul(block.bytes());
        // mkfs.erofs does not pad the last block.
        (found.saturating_add(block.bytes() - 1) < needed).then_some(needed)
    };
    if let Some(needed) = short(blocks, image.source_len()) {
        faults.image(FaultKind::Truncated { blocks, needed, found: image.source_len() });
    }
    let ids = (1..).map(DeviceId::new);
    for ((device, slot), source) in ids.clone().zip(image.devices()).zip(devices) {
        if let Some(needed) = short(slot.blocks, source.len()) {
            let (blocks, found) = (slot.blocks, source.len());
            faults.image(FaultKind::DeviceTruncated { device, blocks, needed, found });
        }
    }
    let mut places: Vec<_> = ids
        .zip(image.devices())
        .filter(|(_, slot)| slot.uniaddr != 0 && slot.blocks != 0)
        .map(|(device, slot)| (slot.uniaddr, slot.uniaddr.saturating_add(slot.blocks), device))
        .collect();
    places.sort_unstable();
    for pair in places.windows(2) {
        if pair[0].1 > pair[1].0 {
            faults.image(FaultKind::DevicesOverlap { first: pair[0].2, second: pair[1].2 });
        }
    }
}

/// Compares the number of inodes with what the superblock announces: those with a name, perhaps the others too.
pub(super) fn count(image: &Image, found: &Found, faults: &Faults) {
    let stored = image.superblock().inodes;
    let unnamed = image.unnamed_inodes().count() as u64;
    if !(found.inodes..=found.inodes + unnamed).contains(&stored) {
        faults.image(FaultKind::InodeCount { stored, found: found.inodes });
    }
}
