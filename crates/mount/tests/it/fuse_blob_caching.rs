//! What reads through fuse-blob cost when EROFS's page cache is cold, and how often bytes are held. A measurement, not a
//! test: run it by hand on an idle machine with
//! `cargo test --release -p larder-mount --test it fuse_blob_caching:: -- --ignored --nocapture`.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use larder_erofs::writer::{Attributes, Tree};
use larder_fscache::ObjectRange;
use larder_mount::keeper::NoKeeper;
use larder_mount::{FrontEndKind, open};
use rustix::fs::{Advice, fadvise};

use crate::common::{CHUNK, Unmount, Worker, build, cannot, drop_caches, noise, scratch};

const BIG: usize = 256 << 20;
const SMALL: usize = 4000;
const ROUNDS: usize = 5;

#[test]
#[ignore = "a measurement, for an idle machine"]
fn measure_cold_reads_of_present_bytes() {
    for kind in [FrontEndKind::Fanotify, FrontEndKind::FuseBlob, FrontEndKind::Fuse] {
        let dir = scratch();
        if !cannot(kind, dir.path()) {
            measure(kind, dir.path());
        }
    }
}

fn measure(kind: FrontEndKind, dir: &Path) {
    let mut tree = Tree::new();
    tree.add_file(b"big", noise(BIG, 1), &Attributes::default()).unwrap();
    for n in 0..SMALL {
        tree.add_file(format!("small/{n}").as_bytes(), noise(3000 + n, 2), &Attributes::default()).unwrap();
    }
    tree.add_file(b"rest", noise(4 * CHUNK, 2), &Attributes::default()).unwrap();
    build(tree, dir);
    let mut worker = Worker::open(dir, Arc::new(NoKeeper));
    // A hole is left in a file that is not read, so that the blob is asked for.
    let all_but_one = ObjectRange::at(0, worker.blob.size() - CHUNK as u64);
    worker.runtime.block_on(worker.engine.prefetch(&worker.blob, all_but_one)).unwrap();
    let front_end =
        open(kind, Arc::clone(&worker.holder), Arc::clone(&worker.engine), &dir.join("cache")).unwrap();
    if front_end.brings_metadata() {
        let (blob, _) = worker.bring_metadata(dir);
        let whole = ObjectRange::at(0, blob.size());
        worker.runtime.block_on(worker.engine.prefetch(&blob, whole)).unwrap();
    }
    let _unmount = Unmount(worker.spec.target.clone());
    let mounted = front_end.mount(worker.spec.clone()).unwrap();
    let backing = worker.blob.resources().object().path().unwrap().to_owned();
    let big = worker.spec.target.join("big");
    type Case<'a> = (&'a str, &'a dyn Fn());
    let cases: [Case<'_>; 4] = [
        ("sequential, 256 MiB", &|| sequential(&big)),
        ("random 4 KiB, 8192", &|| random(&big)),
        ("4000 small files", &|| small(&worker.spec.target)),
        ("stat of 4000", &|| stats(&worker.spec.target)),
    ];
    for (name, case) in cases {
        let mut times = Vec::new();
        let mut held = 0;
        for _ in 0..ROUNDS {
            drop_caches();
            // What the worker reads is in memory.
            let _ = std::io::copy(&mut fs::File::open(&backing).unwrap(), &mut std::io::sink()).unwrap();
            let before = cached_kib();
            let begun = Instant::now();
            case();
            times.push(begun.elapsed());
            held = cached_kib().saturating_sub(before);
        }
        times.sort();
        println!("{kind:10} {name:20} {:8.1} ms  page cache +{} MiB", ms(times[ROUNDS / 2]), held / 1024);
    }
    mounted.unmount(true).unwrap();
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn sequential(path: &Path) {
    let mut file = fs::File::open(path).unwrap();
    let mut buffer = vec![0; 1 << 20];
    while std::io::Read::read(&mut file, &mut buffer).unwrap() > 0 {}
}

fn random(path: &Path) {
    let file = fs::File::open(path).unwrap();
    fadvise(&file, 0, None, Advice::Random).unwrap();
    let mut page = [0; 4096];
    let mut at = 1_u64;
    for _ in 0..8192 {
        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        file.read_exact_at(&mut page, (at >> 33) % (BIG as u64 / 4096) * 4096).unwrap();
    }
}

fn small(root: &Path) {
    for n in 0..SMALL {
        fs::read(root.join(format!("small/{n}"))).unwrap();
    }
}

fn stats(root: &Path) {
    for n in 0..SMALL {
        fs::metadata(root.join(format!("small/{n}"))).unwrap();
    }
}

fn cached_kib() -> u64 {
    let info = fs::read_to_string("/proc/meminfo").unwrap();
    let line = info.lines().find(|line| line.starts_with("Cached:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
