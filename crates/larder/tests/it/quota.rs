//! Show 4: a cache under a workload of ten times its quota. The quota is never passed, the file system never falls below the stop
//! limit, and every read is right (P1, P5).
//!
//! `LARDER_QUOTA_MIB=1024 cargo test --release -p larder --test it quota::` runs it in full size; by default it is scaled down.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::program::User;
use crate::support::{self, Image, Larder, skip, tree};

/// Images that are mounted at the same time: together less than the quota, since what is mounted is not culled.
const SIDE_BY_SIDE: usize = 3;

/// Of the quota, one image.
const PARTS: u64 = 5;

/// The workload, in quotas.
const TIMES: u64 = 10;

fn quota_bytes() -> u64 {
    let mib = std::env::var("LARDER_QUOTA_MIB").map_or(48, |text| text.parse().expect("a number of MiB"));
    mib << 20
}

#[test]
fn p1_p5_a_cache_under_ten_times_its_quota_keeps_to_it_and_serves_the_right_bytes() {
    let larder = Larder::new(User::Same);
    let Some(frontend) = support::FRONT_ENDS.into_iter().find(|name| larder.cannot(name).is_none()) else {
        return skip("p1_p5_a_cache_under_ten_times_its_quota", "no front end works here");
    };
    let quota = quota_bytes();
    let image_bytes = quota.div_ceil(PARTS);
    let count = usize::try_from(TIMES * PARTS).expect("small");
    larder.run(["daemon", "--detach", "--quota", &quota.to_string()]).ok();
    let workload = Workload { larder: &larder, frontend, image_bytes };
    let next = AtomicUsize::new(0);
    let (ended, peak) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let watch = scope.spawn(|| watch(&larder, quota, &ended, &peak));
        let workers: Vec<_> = (0..SIDE_BY_SIDE)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= count {
                            break;
                        }
                        workload.image(number);
                    }
                })
            })
            .collect();
        // The watch ends whatever becomes of the others.
        let results: Vec<_> = workers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        ended.store(true, Ordering::Release);
        let samples = watch.join().expect("the quota is kept");
        assert!(results.iter().all(Result::is_ok), "a reader failed");
        assert!(samples > 20, "{samples} samples are too few to tell");
    });
    let (peak, read) = (peak.into_inner(), count as u64 * image_bytes);
    assert!(read >= TIMES * quota, "{read}");
    // A cache that never filled up would prove nothing.
    assert!(peak > quota / 2, "at most {peak} of {quota} bytes were used");
}

struct Workload<'a> {
    larder: &'a Larder,
    frontend: &'a str,
    image_bytes: u64,
}

impl Workload<'_> {
    /// Builds an image of its own, mounts it, reads it in pieces, unmounts it.
    fn image(&self, number: usize) {
        let seed = 1000 + u64::try_from(number).expect("small");
        let content = tree::noise(seed, usize::try_from(self.image_bytes).expect("memory"));
        let source = self.larder.dir(&format!("source-{number}"));
        fs::write(source.join("file"), &content).expect("a file");
        let image = Image::build(self.larder, &source, &format!("layout-{number}"));
        fs::remove_dir_all(&source).expect("our own");
        let target = self.larder.mount(&image.reference(), &format!("mnt-{number}"), self.frontend);
        let found = fs::read(target.join("file")).unwrap_or_else(|error| panic!("image {number}: {error}"));
        assert!(found == content, "image {number}: other bytes than the image's");
        self.larder.run(["umount".as_ref(), target.as_os_str()]).ok();
        drop(image);
        fs::remove_dir_all(self.larder.path(&format!("layout-{number}"))).expect("our own");
    }
}

/// Looks at the cache until the end; returns how often it looked.
fn watch(larder: &Larder, quota: u64, ended: &AtomicBool, peak: &AtomicU64) -> usize {
    let objects = larder.root().join("cache/cache");
    let graves = larder.root().join("cache/graveyard");
    let mut samples = 0;
    while !ended.load(Ordering::Acquire) {
        let used = stored_below(&objects) + stored_below(&graves);
        assert!(used <= quota, "the cache takes {used} bytes, its quota is {quota}");
        peak.fetch_max(used, Ordering::Relaxed);
        let space = rustix::fs::statvfs(larder.root()).expect("it is there");
        // The default stop limit is one hundredth.
        assert!(
            space.f_bfree >= space.f_blocks / 100,
            "{} of {} blocks are free",
            space.f_bfree,
            space.f_blocks
        );
        samples += 1;
        thread::sleep(Duration::from_millis(5));
    }
    samples
}

/// What the files below a directory take on the disk; what goes away meanwhile counts nothing.
fn stored_below(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    let stored = |path: &PathBuf| match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => stored_below(path),
        Ok(found) => found.blocks() * 512,
        Err(_) => 0,
    };
    paths.iter().map(stored).sum()
}
