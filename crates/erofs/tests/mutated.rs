//! Mutated images: reader, checker and merge end with an error or a result, within a second and 256 MB each, never a panic.
//!
//! 2,000 of them by default; `EROFS_MUTATIONS=10000 cargo test --release -p larder-erofs --test mutated -- --nocapture`
//! runs as many as that says and prints the slowest and the largest. `EROFS_SEED` starts elsewhere. One test alone in
//! its program, so that memory is that of this test: resident memory is measured for each image, and the address
//! space is limited, so that memory asked for and never touched counts too.

use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use larder_erofs::check::{Options, check};
use larder_erofs::{DeviceMode, Image};
use larder_erofs_fuzz::{corpus, exercise, golden, merge, mutate};

const MUTATIONS: u64 = 2_000;
const MEMORY_KIB_MAX: u64 = 256 << 10;
/// Address space beyond what the program has at its start: the limit, and what stacks and arenas of the checker's
/// threads reserve without using it.
const ADDRESS_SPACE_BYTES: u64 = (256 + 320) << 20;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// A figure of this process, in KiB.
fn status_kib(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find(|line| line.starts_with(field)).expect("Linux has it");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

/// Time that processors have spent on this program: on a busy machine the clock says nothing.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

/// Begins to measure the most resident memory anew: proc_pid_clear_refs(5).
fn forget_most_memory() {
    std::fs::write("/proc/self/clear_refs", "5").expect("Linux has it");
}

fn limit_address_space() {
    let limit = status_kib("VmSize:") * 1024 + ADDRESS_SPACE_BYTES;
    let mut both = rustix::process::getrlimit(rustix::process::Resource::As);
    both.current = Some(limit);
    rustix::process::setrlimit(rustix::process::Resource::As, both).expect("a lower limit is allowed");
}

/// Checks an image as `fsck` does, with two threads.
fn fsck(bytes: &[u8]) {
    let options = Options { jobs: NonZero::new(2).expect("not zero"), ..Options::default() };
    for mode in [DeviceMode::Separate, DeviceMode::Flat] {
        if let Ok((image, checksum)) = Image::open_unverified(bytes.to_vec(), mode) {
            let report = check(&image, &[], checksum, &options);
            assert!(report.faults.len() <= options.faults_max);
        }
    }
}

/// What is done to an image.
type Work = fn(&[u8]);

/// The largest figure, and what it belongs to.
#[derive(Default)]
struct Most<T>(T, u64);

impl<T: PartialOrd> Most<T> {
    fn note(&mut self, figure: T, seed: u64) {
        if figure > self.0 {
            (self.0, self.1) = (figure, seed);
        }
    }
}

#[test]
fn every_mutated_image_ends_with_an_error_or_a_result_in_bounded_memory() {
    let images: Vec<_> = golden::RECIPES.iter().map(|&(name, _)| (name, golden::image(name))).collect();
    let first = number("EROFS_SEED").unwrap_or(1);
    let count = number("EROFS_MUTATIONS").unwrap_or(MUTATIONS);
    limit_address_space();
    let (mut opened, mut reader, mut checker) = (0, Most::default(), Most::default());
    let mut merger = Most::default();
    let mut memory = Most::default();
    let at_start = status_kib("VmRSS:");
    for seed in first..first + count {
        let (name, image) = &images[usize::try_from(seed).expect("small") % images.len()];
        let mut bytes = image.clone();
        let mut numbers = corpus::numbers(seed);
        mutate::mutate(&mut bytes, || numbers.next().expect("endless"));
        forget_most_memory();
        let works: [(Work, _); 3] =
            [(exercise::exercise, &mut reader), (fsck, &mut checker), (merge::merge, &mut merger)];
        for (work, slowest) in works {
            let began = processor_time();
            let result = catch_unwind(AssertUnwindSafe(|| work(&bytes)));
            slowest.note(processor_time().saturating_sub(began), seed);
            assert!(
                result.is_ok(),
                "{name}, seed {seed}: see above; EROFS_SEED={seed} EROFS_MUTATIONS=1 repeats it"
            );
        }
        memory.note(status_kib("VmHWM:").saturating_sub(at_start), seed);
        opened += u64::from(Image::open(bytes).is_ok());
    }
    let Most(kib, hungriest) = memory;
    println!(
        "{count} mutated images, {opened} could be opened; most processor time: reader {:?} (seed {}), checker {:?} (seed {}), \
         merge {:?} (seed {}); \
         most memory: {} MiB more than at the start (seed {hungriest})",
        reader.0,
        reader.1,
        checker.0,
        checker.1,
        merger.0,
        merger.1,
        kib >> 10
    );
    assert!(opened > count / 4, "most damage lies beyond the superblock: {opened} of {count} opened");
    assert!(kib < MEMORY_KIB_MAX, "{kib} KiB for seed {hungriest}");
}
