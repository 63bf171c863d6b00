//! Show 5: `kill -9` of the worker while readers read a cold image: no wrong byte, no error, every reader ends.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use rustix::process::Signal;

use crate::support::daemon::kill;
use crate::support::program::User;
use crate::support::{self, Image, Larder, skip, tree};

const READERS: usize = 8;
const FILES: usize = 24;
const KILLS: usize = 6;
/// A reader that is not done so long after the last kill hangs.
const STUCK: Duration = Duration::from_secs(300);

fn p1_p4_readers_of_a_cold_image_survive(signal: Signal, frontend: &str) {
    let larder = Larder::new(User::Same);
    if let Some(why) = larder.cannot(frontend) {
        return skip(&format!("p1_p4_readers_of_a_cold_image_survive {signal:?} ({frontend})"), &why);
    }
    if let Some(why) = support::cannot_replace(frontend, signal == Signal::KILL) {
        return skip(&format!("p1_p4_readers_of_a_cold_image_survive {signal:?} ({frontend})"), why);
    }
    let source = larder.dir("source");
    for n in 0..FILES {
        let seed = u64::try_from(n).expect("small");
        fs::write(source.join(format!("file-{n}")), tree::noise(seed, (1 << 20) + 4096 * n + n))
            .expect("a file");
    }
    let image = Image::build(&larder, &source, "layout");
    image.registry.set_latency(Duration::from_millis(10));
    image.registry.set_bandwidth(8 << 20);
    let target = larder.mount(&image.reference(), "mnt", frontend);
    let first = larder.worker();
    let (done, killing) = (AtomicUsize::new(0), AtomicBool::new(true));
    thread::scope(|scope| {
        let ended = Ended(&killing);
        for reader in 0..READERS {
            let (source, target, done, killing) = (&source, &target, &done, &killing);
            scope.spawn(move || {
                // However slow this machine is, whoever has read everything reads until the last worker was killed.
                loop {
                    let last = !killing.load(Ordering::Acquire);
                    read_everything(source, target, reader);
                    if last {
                        break;
                    }
                }
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
        for n in 0..KILLS {
            thread::sleep(Duration::from_millis(120 + 70 * u64::try_from(n).expect("small")));
            kill(larder.worker(), signal);
        }
        drop(ended);
        let begun = Instant::now();
        while done.load(Ordering::Relaxed) < READERS {
            assert!(begun.elapsed() < STUCK, "{} of {READERS} ended", done.load(Ordering::Relaxed));
            thread::sleep(Duration::from_millis(20));
        }
    });
    assert_ne!(larder.worker(), first, "the worker was never replaced");
    let mount = larder.mount_status(&target);
    assert!(mount["last_error"].is_null(), "{mount:#}");
    larder.run(["umount".as_ref(), target.as_os_str()]).ok();
}

/// Says, when it is dropped, that no worker is killed any more: also where that failed, or its readers would read for ever.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Every file, each reader in another order, in pieces.
fn read_everything(source: &Path, target: &Path, reader: usize) {
    for n in 0..FILES {
        let name = format!("file-{}", (n * 5 + reader * 3) % FILES);
        let expected = fs::read(source.join(&name)).expect("the source is here");
        let found =
            fs::read(target.join(&name)).unwrap_or_else(|error| panic!("reader {reader}: {name}: {error}"));
        assert!(found == expected, "reader {reader}: {name}: other bytes than the image's");
    }
}

#[test]
fn p1_p4_readers_of_a_cold_image_survive_kill_9_of_the_worker_through_fanotify() {
    p1_p4_readers_of_a_cold_image_survive(Signal::KILL, "fanotify");
}

#[test]
fn p1_p4_readers_of_a_cold_image_survive_kill_9_of_the_worker_through_fuse_blob() {
    p1_p4_readers_of_a_cold_image_survive(Signal::KILL, "fuse-blob");
}

#[test]
fn p1_p4_readers_of_a_cold_image_survive_kill_9_of_the_worker_through_cachefiles() {
    p1_p4_readers_of_a_cold_image_survive(Signal::KILL, "cachefiles");
}

#[test]
fn p1_p4_readers_of_a_cold_image_survive_kill_9_of_the_worker_through_fuse() {
    p1_p4_readers_of_a_cold_image_survive(Signal::KILL, "fuse");
}

#[test]
fn p4_readers_do_not_notice_that_the_worker_is_replaced_by_another_on_sighup() {
    for frontend in support::FRONT_ENDS {
        p1_p4_readers_of_a_cold_image_survive(Signal::HUP, frontend);
    }
}

#[test]
fn a_keeper_that_is_told_to_end_unmounts_everything_first() {
    for signal in [Signal::TERM, Signal::INT] {
        let larder = Larder::new(User::Same);
        let Some(frontend) = support::FRONT_ENDS.into_iter().find(|name| larder.cannot(name).is_none())
        else {
            return skip("a_keeper_that_is_told_to_end_unmounts_everything_first", "no front end works here");
        };
        let source = larder.dir("source");
        tree::plain(&source);
        let image = Image::build(&larder, &source, "layout");
        larder.mount(&image.reference(), "mnt", frontend);
        kill(support::daemon::pid(&larder.status(), "keeper").expect("a keeper"), signal);
        let begun = Instant::now();
        while !larder.processes().is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(20), "{}", larder.log());
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(larder.mounted(), Vec::<std::path::PathBuf>::new());
        assert!(!larder.root().join("run/larder.sock").exists());
    }
}

/// The mount, and what was cached, do not need the registry.
#[test]
fn p4_a_new_worker_serves_what_is_cached_without_the_registry() {
    for frontend in support::FRONT_ENDS {
        let larder = Larder::new(User::Same);
        if let Some(why) = larder.cannot(frontend) {
            skip(&format!("p4_a_new_worker_serves_what_is_cached ({frontend})"), &why);
            continue;
        }
        if let Some(why) = support::cannot_replace(frontend, true) {
            skip(&format!("p4_a_new_worker_serves_what_is_cached ({frontend})"), why);
            continue;
        }
        let source = larder.dir("source");
        tree::plain(&source);
        let image = Image::build(&larder, &source, "layout");
        let target = larder.mount(&image.reference(), "mnt", frontend);
        support::compare::assert_same(&source.join("lib"), &target.join("lib"));
        let fetched = larder.mount_status(&target)["fetched_bytes"].as_u64().expect("a number");
        drop(image);
        kill(larder.worker(), Signal::KILL);
        support::compare::assert_same(&source.join("lib"), &target.join("lib"));
        let mount = larder.mount_status(&target);
        assert!(mount["last_error"].is_null(), "{mount:#}");
        assert!(mount["fetched_bytes"].as_u64().expect("a number") <= fetched, "{mount:#}");
    }
}

/// With nobody left who holds the group, what is mounted may show zeros: it is taken away before anybody new reads it.
#[test]
fn p1_after_the_death_of_keeper_and_worker_no_mount_is_left_and_the_cache_is_good() {
    for frontend in support::FRONT_ENDS {
        let larder = Larder::new(User::Same);
        if let Some(why) = larder.cannot(frontend) {
            skip(&format!("p1_after_the_death_of_keeper_and_worker ({frontend})"), &why);
            continue;
        }
        let source = larder.dir("source");
        tree::plain(&source);
        let image = Image::build(&larder, &source, "layout");
        let target = larder.mount(&image.reference(), "mnt", frontend);
        support::compare::assert_same(&source.join("lib"), &target.join("lib"));
        let status = larder.status();
        let process = |which| support::daemon::pid(&status, which).expect("a process");
        kill(process("keeper"), Signal::STOP);
        kill(process("worker"), Signal::KILL);
        kill(process("keeper"), Signal::KILL);
        let begun = Instant::now();
        while !larder.processes().is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(10), "they were killed");
            thread::sleep(Duration::from_millis(10));
        }
        larder.run(["daemon", "--detach"]).ok();
        assert_eq!(larder.mounted(), Vec::<std::path::PathBuf>::new(), "{}", larder.log());
        assert_eq!(larder.status()["mounts"], serde_json::json!([]));
        assert!(larder.log().contains("not resumed"), "{}", larder.log());
        larder
            .run(["mount", "--frontend", frontend, &image.reference(), target.to_str().expect("plain")])
            .ok();
        support::compare::assert_same(&source, &target);
    }
}

/// Aborted while somebody uses it and nobody serves it: its superblock stays. What is made in its place is the mount that the
/// worker after the next one takes up.
#[test]
fn p4_a_mount_whose_connection_was_aborted_is_made_anew_and_outlives_later_workers() {
    let test = "p4_a_mount_whose_connection_was_aborted_is_made_anew_and_outlives_later_workers";
    let larder = Larder::new(User::Same);
    let cannot = larder.cannot("fuse").or_else(|| support::cannot_replace("fuse", true).map(str::to_owned));
    let not_root = || (!rustix::process::geteuid().is_root()).then(|| "aborting takes root".to_owned());
    if let Some(why) = cannot.or_else(not_root) {
        return skip(test, &why);
    }
    let source = larder.dir("source");
    fs::write(source.join("file"), tree::noise(1, 1 << 20)).expect("a file");
    let image = Image::build(&larder, &source, "layout");
    let target = larder.mount(&image.reference(), "mnt", "fuse");
    let user = rustix::fs::open(&target, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).expect("it is there");
    let worker = larder.worker();
    kill(worker, Signal::STOP);
    let aborted = rustix::mount::unmount(&target, UnmountFlags::FORCE);
    kill(worker, Signal::KILL);
    assert_eq!(aborted, Err(Errno::BUSY));
    for _ in 0..2 {
        let begun = Instant::now();
        let found = loop {
            match fs::read(target.join("file")) {
                Err(error) if begun.elapsed() > STUCK => panic!("{error}"),
                Err(_) => thread::sleep(Duration::from_millis(20)),
                Ok(found) => break found,
            }
        };
        assert!(found == tree::noise(1, 1 << 20), "other bytes than the image's");
        kill(larder.worker(), Signal::KILL);
    }
    drop(user);
    fs::read(target.join("file")).expect("the mount works");
}
