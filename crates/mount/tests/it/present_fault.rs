//! What a question costs whose bytes are present. A measurement, not a test: run it by hand on an idle machine with
//! `cargo test --release -p larder-mount --test it present_fault:: -- --ignored --nocapture`.

use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use larder_erofs::writer::{Attributes, Tree};
use larder_fscache::ObjectRange;
use larder_mount::keeper::NoKeeper;
use larder_mount::{FrontEndKind, open};
use rustix::fs::{Advice, fadvise};

use crate::common::{CHUNK, Unmount, Worker, build, cannot, drop_caches, noise, scratch};

const PAGES: usize = 16 << 10;
const ROUNDS: usize = 5;

#[test]
#[ignore = "a measurement, for an idle machine"]
fn measure_a_question_whose_bytes_are_present() {
    let dir = scratch();
    if cannot(FrontEndKind::Fanotify, dir.path()) {
        return;
    }
    let mut tree = Tree::new();
    tree.add_file(b"big", noise(PAGES * 4096, 1), &Attributes::default()).unwrap();
    tree.add_file(b"rest", noise(4 * CHUNK, 2), &Attributes::default()).unwrap();
    build(tree, dir.path());
    let worker = Worker::open(dir.path(), Arc::new(NoKeeper));
    // A hole is left in a file that is not read, so that the blob gets its mark.
    let all_but_one = ObjectRange::at(0, worker.blob.size() - CHUNK as u64);
    worker.runtime.block_on(worker.engine.prefetch(&worker.blob, all_but_one)).unwrap();
    let front_end = open(
        FrontEndKind::Fanotify,
        Arc::clone(&worker.holder),
        Arc::clone(&worker.engine),
        &dir.path().join("cache"),
    )
    .unwrap();
    let _unmount = Unmount(worker.spec.target.clone());
    let mounted = front_end.mount(worker.spec.clone()).unwrap();
    let file = fs::File::open(worker.spec.target.join("big")).unwrap();
    fadvise(&file, 0, None, Advice::Random).unwrap();
    let mut marked = Vec::new();
    for _ in 0..ROUNDS {
        marked.push(round(&worker, &file));
    }
    fs::read(worker.spec.target.join("rest")).unwrap();
    let whole = ObjectRange::at(0, worker.blob.size());
    worker.runtime.block_on(worker.engine.prefetch(&worker.blob, whole)).unwrap();
    worker.blob.resources().object().commit().unwrap();
    mounted.on_complete(&worker.blob);
    let mut unmarked = Vec::new();
    for _ in 0..ROUNDS {
        unmarked.push(round(&worker, &file));
    }
    println!("marked   {marked:?}");
    println!("unmarked {unmarked:?}");
}

/// Time of one random read of a page that EROFS has not cached and the backing file has.
fn round(worker: &Worker, file: &fs::File) -> Duration {
    drop_caches();
    let mut page = [0; 4096];
    for n in 0..worker.blob.size().div_ceil(4096) {
        worker.blob.resources().object().read_at(n * 4096, &mut page).unwrap();
    }
    let start = Instant::now();
    for n in 0..PAGES {
        let at = (n * 7919) % PAGES;
        file.read_exact_at(&mut page, at as u64 * 4096).unwrap();
    }
    start.elapsed() / u32::try_from(PAGES).unwrap()
}
