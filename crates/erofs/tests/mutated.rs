//! Mutated images: an error or a result, within a second and 256 MB each, never a panic.
//!
//! 2,000 of them by default; `EROFS_MUTATIONS=10000 cargo test -p larder-erofs --test mutated -- --nocapture` runs
//! as many as that says and prints the slowest. `EROFS_SEED` starts elsewhere. One test alone in its program, so
//! that the most memory the program ever had is that of this test.

#[path = "support/corpus.rs"]
mod corpus;
#[path = "support/exercise.rs"]
mod exercise;
#[path = "support/golden.rs"]
mod golden;
#[path = "support/mutate.rs"]
mod mutate;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

const MUTATIONS: u64 = 2_000;
const MEMORY_KIB_MAX: u64 = 256 << 10;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The most memory this process ever had, in KiB.
fn memory_most_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[test]
fn every_mutated_image_ends_with_an_error_or_a_result_in_bounded_memory() {
    let images: Vec<_> = golden::RECIPES.iter().map(|&(name, _)| (name, golden::image(name))).collect();
    let first = number("EROFS_SEED").unwrap_or(1);
    let count = number("EROFS_MUTATIONS").unwrap_or(MUTATIONS);
    let (mut opened, mut slowest) = (0, (Duration::ZERO, 0));
    for seed in first..first + count {
        let (name, image) = &images[usize::try_from(seed).expect("small") % images.len()];
        let mut bytes = image.clone();
        let mut numbers = corpus::numbers(seed);
        mutate::mutate(&mut bytes, || numbers.next().expect("endless"));
        let began = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| exercise::exercise(&bytes)));
        slowest = slowest.max((began.elapsed(), seed));
        opened += u64::from(larder_erofs::Image::open(bytes).is_ok());
        assert!(
            result.is_ok(),
            "{name}, seed {seed}: see above; EROFS_SEED={seed} EROFS_MUTATIONS=1 repeats it"
        );
    }
    let memory = memory_most_kib().unwrap_or(0);
    println!(
        "{count} mutated images: {opened} could be opened; the slowest took {:?} (seed {}); {} MiB at most",
        slowest.0,
        slowest.1,
        memory >> 10
    );
    assert!(opened > count / 4, "most damage lies beyond the superblock: {opened} of {count} opened");
    assert!(memory < MEMORY_KIB_MAX, "{memory} KiB");
}
