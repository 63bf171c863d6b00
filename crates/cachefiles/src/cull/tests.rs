//! Who waits for room, and what makes it.

use std::sync::Arc;

use super::*;
use crate::ledger::Ledger;
use crate::storage::sim::SimDisk;
use crate::store::Parts;
use crate::walk::Progress;
use crate::{BootId, Limits, NoHolder};

const QUOTA: u64 = 1 << 20;

#[test]
fn p2_a_writer_waits_for_the_walk_however_many_folders_that_has() {
    let limits = Limits { quota: Some(QUOTA), ..Limits::default() };
    let parts = Parts::over(Arc::new(SimDisk::new(0)), BootId::from_bytes([1; 16]), Arc::new(NoHolder));
    let ledger = Ledger::new(limits, 0, QUOTA, 0, QUOTA);
    let store = Store::new(Parts { ledger, walk: Progress::default(), ..parts });
    thread::scope(|scope| {
        let writer = scope.spawn(|| store.draw(Goal { bytes: 1, files: 0 }).map(drop));
        // Each wakes the writer, which finds no room.
        for _ in 0..4 * TRIES_MAX {
            thread::sleep(Duration::from_millis(1));
            store.walk.add(1);
        }
        store.walk();
        writer.join().expect("no panic").expect("the walk has found that there is room");
    });
}
