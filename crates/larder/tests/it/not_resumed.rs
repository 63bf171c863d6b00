//! A mount that a worker cannot take up, for a reason that passes: it stays, its readers get errors, the others go on, and it
//! is taken up when the reason is gone (P1, P3, P4).

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use larder_testkit::Fault;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::Signal;
use serde_json::Value;

use crate::support::daemon::{kill, pid};
use crate::support::program::User;
use crate::support::{self, Image, Larder, skip, tree};

const FILE_BYTES: usize = 1 << 20;

/// How long something may take that the daemon does by itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// An image, mounted; nothing of its files has been read.
struct Mounted {
    image: Image,
    source: PathBuf,
    target: PathBuf,
}

impl Mounted {
    fn new(larder: &Larder, frontend: &str, name: &str, seed: u64) -> Self {
        let source = larder.dir(&format!("{name}-source"));
        for n in 0..2 {
            fs::write(source.join(format!("file-{n}")), tree::noise(seed + n, FILE_BYTES)).expect("a file");
        }
        let image = Image::build(larder, &source, &format!("{name}-layout"));
        let target = larder.mount(&image.reference(), name, frontend);
        Self { image, source, target }
    }

    fn file(&self, n: usize) -> PathBuf {
        self.target.join(format!("file-{n}"))
    }

    fn assert_serves(&self) {
        support::compare::assert_same(&self.source, &self.target);
    }

    /// Kills the worker, and keeps the next one from taking this mount up: its manifest is gone, here and there.
    fn kill_worker_and_lose_manifest(&self, larder: &Larder) {
        let manifest = larder.mount_status(&self.target)["manifest"].clone();
        let manifest = manifest.as_str().and_then(|digest| digest.strip_prefix("sha256:")).expect("a digest");
        let (worker, keeper) = (larder.worker(), larder.root().join("state/images/sha256"));
        self.image.registry.fail(Fault::Status(404));
        self.image.registry.set_latency(Duration::ZERO);
        fs::remove_file(keeper.join(manifest)).expect("the daemon keeps it");
        kill(worker, Signal::KILL);
    }

    /// The mount's status, once it has the state `state`.
    #[track_caller]
    fn wait_for(&self, larder: &Larder, is_wanted: impl Fn(&str) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let status = larder.mount_status(&self.target);
            if is_wanted(status["state"].as_str().expect("a word")) {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "{status:#}\n{}", larder.log());
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// A daemon for `frontend`; `None` when it does not work here, or its worker cannot be killed under readers.
fn larder_with(test: &str, frontend: &str) -> Option<Larder> {
    let larder = Larder::new(User::Same);
    let cannot =
        larder.cannot(frontend).or_else(|| support::cannot_replace(frontend, true).map(str::to_owned));
    match cannot {
        Some(why) => {
            skip(&format!("{test} ({frontend})"), &why);
            None
        }
        None => Some(larder),
    }
}

fn p4_a_mount_that_cannot_be_taken_up_stays_until_it_can(frontend: &str) {
    let Some(larder) = larder_with("p4_a_mount_that_cannot_be_taken_up_stays_until_it_can", frontend) else {
        return;
    };
    let lost = Mounted::new(&larder, frontend, "lost", 0);
    let other = Mounted::new(&larder, frontend, "other", 7);
    // So that nobody has its bytes before the worker dies.
    lost.image.registry.set_latency(Duration::from_secs(600));
    let waiting = thread::spawn({
        let file = lost.file(0);
        move || fs::read(file).map(drop)
    });
    lost.kill_worker_and_lose_manifest(&larder);

    waiting.join().expect("it does not panic").expect_err("nobody can bring its bytes");
    let status = lost.wait_for(&larder, |state| state == "failing");
    let error = status["last_error"].as_str().expect("a text");
    assert!(error.contains("404"), "{error}");
    fs::read(lost.file(1)).map(drop).expect_err("nobody can bring its bytes");
    other.assert_serves();
    let said = larder.run([OsStr::new("umount"), lost.target.as_os_str()]).failed();
    assert!(said.contains("could not be taken up") && said.contains("--lazy"), "{said}");
    let said = larder.run(["mount".as_ref(), OsStr::new(&other.image.reference()), lost.target.as_os_str()]);
    said.failed();

    lost.image.registry.clear_faults();
    lost.wait_for(&larder, |state| state != "failing");
    lost.assert_serves();
    other.assert_serves();
    for target in [&lost.target, &other.target] {
        larder.run([OsStr::new("umount"), target.as_os_str()]).ok();
    }
}

#[test]
fn p4_a_mount_that_cannot_be_taken_up_stays_until_it_can_through_fanotify() {
    p4_a_mount_that_cannot_be_taken_up_stays_until_it_can("fanotify");
}

#[test]
fn p4_a_mount_that_cannot_be_taken_up_stays_until_it_can_through_fuse_blob() {
    p4_a_mount_that_cannot_be_taken_up_stays_until_it_can("fuse-blob");
}

#[test]
fn p4_a_mount_that_cannot_be_taken_up_stays_until_it_can_through_cachefiles() {
    p4_a_mount_that_cannot_be_taken_up_stays_until_it_can("cachefiles");
}

#[test]
fn p4_a_mount_that_cannot_be_taken_up_stays_until_it_can_through_fuse() {
    p4_a_mount_that_cannot_be_taken_up_stays_until_it_can("fuse");
}

/// What the mount had left on the blob's file is taken off, or whoever writes to it would wait for itself.
#[test]
fn p3_an_image_whose_mount_was_not_taken_up_and_was_taken_away_is_mounted_again() {
    for frontend in support::FRONT_ENDS {
        let test = "p3_an_image_whose_mount_was_not_taken_up_and_was_taken_away_is_mounted_again";
        let Some(larder) = larder_with(test, frontend) else { continue };
        let lost = Mounted::new(&larder, frontend, "lost", 0);
        lost.kill_worker_and_lose_manifest(&larder);
        lost.wait_for(&larder, |state| state == "failing");
        larder.run(["umount".as_ref(), "--lazy".as_ref(), lost.target.as_os_str()]).ok();
        lost.image.registry.clear_faults();
        // Upkeep lets go of what nobody uses every five seconds; from then on the file is opened anew.
        thread::sleep(Duration::from_secs(7));
        let target = larder.mount(&lost.image.reference(), "again", frontend);
        support::compare::assert_same(&lost.source, &target);
        larder.run([OsStr::new("umount"), target.as_os_str()]).ok();
    }
}

/// Nobody knows where it is mounted: its readers get errors, and the end of the daemon waits for them.
fn p1_a_mount_without_a_record_gives_errors(frontend: &str) {
    let Some(larder) = larder_with("p1_a_mount_without_a_record_gives_errors", frontend) else { return };
    let lost = Mounted::new(&larder, frontend, "lost", 0);
    let worker = larder.worker();
    for entry in fs::read_dir(larder.root().join("state/mounts")).expect("the daemon's own") {
        fs::remove_file(entry.expect("readable").path()).expect("the daemon's own");
    }
    kill(worker, Signal::KILL);
    fs::read(lost.file(0)).map(drop).expect_err("nobody can bring its bytes");
    assert_eq!(larder.status()["mounts"].as_array().map(Vec::len), Some(0));
    larder.run(["daemon", "--stop", "--lazy"]).ok();
    fs::read(lost.file(1)).map(drop).expect_err("nobody can bring its bytes");
    rustix::mount::unmount(&lost.target, rustix::mount::UnmountFlags::DETACH).expect("it is mounted");
    let begun = Instant::now();
    while !larder.processes().is_empty() {
        assert!(begun.elapsed() < PATIENCE, "{}", larder.log());
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn p1_a_mount_without_a_record_gives_errors_through_fanotify() {
    p1_a_mount_without_a_record_gives_errors("fanotify");
}

#[test]
fn p1_a_mount_without_a_record_gives_errors_through_fuse_blob() {
    p1_a_mount_without_a_record_gives_errors("fuse-blob");
}

#[test]
fn p1_a_mount_without_a_record_gives_errors_through_fuse() {
    p1_a_mount_without_a_record_gives_errors("fuse");
}

/// A stop that comes while an image is still being opened: nothing is mounted that nobody would serve.
#[test]
fn p1_what_is_being_mounted_when_the_daemon_stops_is_not_left_behind() {
    for frontend in support::FRONT_ENDS {
        let test = "p1_what_is_being_mounted_when_the_daemon_stops_is_not_left_behind";
        let Some(larder) = larder_with(test, frontend) else { continue };
        let there = Mounted::new(&larder, frontend, "there", 0);
        let coming = larder.dir("coming");
        let source = larder.dir("coming-source");
        fs::write(source.join("file"), tree::noise(9, FILE_BYTES)).expect("a file");
        let image = Image::build(&larder, &source, "coming-layout");
        for wait_ms in [30, 100, 250, 600] {
            image.registry.set_latency(Duration::from_millis(100));
            let mounting = larder
                .command(["mount", "--frontend", frontend, &image.reference()])
                .arg(&coming)
                .stderr(std::process::Stdio::null())
                .spawn();
            let mut mounting = mounting.expect("the program");
            thread::sleep(Duration::from_millis(wait_ms));
            larder.run(["daemon", "--stop", "--lazy"]);
            mounting.wait().expect("a child");
            let begun = Instant::now();
            while !larder.processes().is_empty() && larder.mounted().is_empty() {
                assert!(begun.elapsed() < PATIENCE, "{}", larder.log());
                thread::sleep(Duration::from_millis(10));
            }
            if larder.processes().is_empty() {
                assert!(larder.mounted().is_empty(), "mounted, and nobody serves it: {}", larder.log());
            }
            image.registry.set_latency(Duration::ZERO);
            larder.run([OsStr::new("mount"), there.image.reference().as_ref(), there.target.as_os_str()]);
            larder.run(["umount".as_ref(), "--lazy".as_ref(), coming.as_os_str()]);
        }
    }
}

fn p1_a_mount_that_was_not_taken_up_is_taken_away_without_zeros(
    frontend: &str,
    away: impl FnOnce(&Mounted, &Larder),
) {
    let Some(larder) = larder_with("p1_a_mount_that_was_not_taken_up_is_taken_away_without_zeros", frontend)
    else {
        return;
    };
    let lost = Mounted::new(&larder, frontend, "lost", 0);
    let file = File::open(lost.file(0)).expect("it is in the image");
    lost.kill_worker_and_lose_manifest(&larder);
    lost.wait_for(&larder, |state| state == "failing");
    away(&lost, &larder);
    assert!(larder.mounted().is_empty(), "{}", larder.log());
    for at in [0, FILE_BYTES / 2] {
        let at = u64::try_from(at).expect("small");
        file.read_exact_at(&mut [0; 4096], at).expect_err("these bytes were never here");
    }
    drop(file);
    larder.run(["daemon", "--stop"]);
    let begun = Instant::now();
    while !larder.processes().is_empty() {
        assert!(begun.elapsed() < PATIENCE, "{}", larder.log());
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn p1_a_mount_that_was_not_taken_up_is_taken_away_without_zeros_through_fanotify() {
    p1_a_mount_that_was_not_taken_up_is_taken_away_without_zeros("fanotify", |_, larder| {
        let said = larder.run(["daemon", "--stop"]).failed();
        assert!(said.contains("--lazy"), "{said}");
        larder.run(["daemon", "--stop", "--lazy"]).ok();
    });
}

#[test]
fn p1_a_mount_that_was_not_taken_up_is_taken_away_without_zeros_through_fuse_blob() {
    p1_a_mount_that_was_not_taken_up_is_taken_away_without_zeros("fuse-blob", |lost, larder| {
        larder.run(["umount".as_ref(), "--lazy".as_ref(), lost.target.as_os_str()]).ok();
        assert_eq!(larder.status()["mounts"].as_array().map(Vec::len), Some(0));
    });
}

#[test]
fn p1_a_mount_that_was_not_taken_up_is_taken_away_without_zeros_through_fuse() {
    p1_a_mount_that_was_not_taken_up_is_taken_away_without_zeros("fuse", |lost, larder| {
        larder.run(["umount".as_ref(), "--lazy".as_ref(), lost.target.as_os_str()]).ok();
        assert_eq!(larder.status()["mounts"].as_array().map(Vec::len), Some(0));
    });
}

/// It lies under somebody else's: it can only be detached when that one is gone, and nobody may forget it before.
fn p1_a_mount_that_was_not_taken_up_is_not_forgotten_under_a_cover(frontend: &str) {
    let test = "p1_a_mount_that_was_not_taken_up_is_not_forgotten_under_a_cover";
    let Some(larder) = larder_with(test, frontend) else { return };
    let flags = MountFlags::empty();
    let lost = Mounted::new(&larder, frontend, "lost", 0);
    lost.kill_worker_and_lose_manifest(&larder);
    lost.wait_for(&larder, |state| state == "failing");
    if let Err(error) = rustix::mount::mount("tmpfs", &lost.target, "tmpfs", flags, None) {
        return skip(&format!("{test} ({frontend})"), &format!("a cover needs root: {error}"));
    }
    larder.run(["umount".as_ref(), "--lazy".as_ref(), lost.target.as_os_str()]).failed();
    larder.run(["daemon", "--stop", "--lazy"]).failed();
    let keeper = pid(&larder.status(), "keeper").expect("a keeper");
    kill(keeper, Signal::TERM);
    thread::sleep(Duration::from_millis(500));
    let state = larder.mount_status(&lost.target)["state"].clone();
    let mounted = larder.mounted().len();
    rustix::mount::unmount(&lost.target, UnmountFlags::DETACH).expect("the cover is mounted");
    assert_eq!((state.as_str(), mounted), (Some("failing"), 2), "{}", larder.log());
    // The signal is not given twice.
    let begun = Instant::now();
    while !larder.processes().is_empty() {
        assert!(begun.elapsed() < PATIENCE, "{}", larder.log());
        thread::sleep(Duration::from_millis(10));
    }
    assert!(larder.mounted().is_empty(), "{}", larder.log());
}

#[test]
fn p1_a_mount_that_was_not_taken_up_is_not_forgotten_under_a_cover_through_fanotify() {
    p1_a_mount_that_was_not_taken_up_is_not_forgotten_under_a_cover("fanotify");
}

#[test]
fn p1_a_mount_that_was_not_taken_up_is_not_forgotten_under_a_cover_through_fuse() {
    p1_a_mount_that_was_not_taken_up_is_not_forgotten_under_a_cover("fuse");
}
