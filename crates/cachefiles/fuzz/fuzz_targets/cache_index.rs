//! A cache whose index is damaged: the input says where and how (`larder_fuzz::damage`).
//!
//! Invariants: opening ends in a cache or an error; the object has its bytes, whatever the index says of it; a cache
//! that was opened can be listed, counted, culled and closed.

#![cfg_attr(fuzzing, no_main)]

#[path = "../support/model.rs"]
mod model;

use std::fs;
use std::ops::ControlFlow;
use std::sync::LazyLock;

use model::{Kept, SIZE, check, complete};

static INDEX: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let kept = Kept::new();
    kept.fill(SIZE);
    fs::read(kept.root().join("index.redb")).expect("closed")
});
/// Where in it something stands.
static PLACES: LazyLock<Vec<usize>> =
    LazyLock::new(|| (0..INDEX.len()).filter(|&at| INDEX[at] != 0).collect());

larder_fuzz::fuzz_target!(Vec::new, |bytes| {
    let mut decisions = bytes.chunks(4).map(|decision| {
        let mut number = [0; 4];
        number[..decision.len()].copy_from_slice(decision);
        u32::from_le_bytes(number)
    });
    let mut below = |end: usize| usize::try_from(decisions.next().unwrap_or(0)).unwrap_or(0) % end.max(1);
    let mut index = INDEX.clone();
    for _ in 0..=below(4) {
        larder_fuzz::damage(&mut index, PLACES[below(PLACES.len())], &mut below);
    }
    let kept = Kept::new();
    kept.fill(SIZE);
    fs::write(kept.root().join("index.redb"), &index).expect("space");
    for _ in 0..2 {
        // One that cannot be read any more is rebuilt.
        let cache = kept.open().expect("the folder is sound");
        let mut objects = 0;
        cache.objects(|_| {
            objects += 1;
            ControlFlow::Continue(())
        });
        assert!(objects <= 2, "{objects} objects where there is one");
        cache.usage();
        let object = Kept::acquire(&cache).expect("there is one");
        check(&*object, true);
        complete(&*object, true);
        drop(object);
        cache.cull(0, 0);
    }
});
