//! Workers that die one after the other: readers wait for a while, then get errors, and the status says why; nothing spins,
//! and when the cause is mended everything is as it was (P3).

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use rustix::mount::UnmountFlags;
use rustix::process::Signal;
use serde_json::Value;

use crate::support::daemon::kill;
use crate::support::program::{User, binary, command, run};
use crate::support::{self, Image, Larder, skip, tree};

const FILE_BYTES: usize = 1 << 20;
/// Deaths in a row after which the keeper has somebody stand in.
const DEATHS: usize = 8;

/// An image of some files, mounted; nothing of the files has been read.
struct Rig {
    larder: Larder,
    image: Image,
    target: PathBuf,
}

impl Rig {
    /// `None` when `frontend` does not work here, or its worker cannot be replaced.
    fn new(test: &str, frontend: &str, before_mount: impl FnOnce(&Larder)) -> Option<Self> {
        let larder = Larder::new(User::Same);
        let cannot =
            larder.cannot(frontend).or_else(|| support::cannot_replace(frontend, true).map(str::to_owned));
        if let Some(why) = cannot {
            skip(&format!("{test} ({frontend})"), &why);
            return None;
        }
        let source = larder.dir("source");
        for n in 0..4 {
            fs::write(source.join(format!("file-{n}")), tree::noise(n, FILE_BYTES)).expect("a file");
        }
        let image = Image::build(&larder, &source, "layout");
        before_mount(&larder);
        let target = larder.mount(&image.reference(), "mnt", frontend);
        Some(Self { larder, image, target })
    }

    fn file(&self, n: usize) -> PathBuf {
        self.target.join(format!("file-{n}"))
    }

    /// Lets every worker die at its start: the cache seems to be a newer release's. Returns how to mend that.
    fn break_cache(&self) -> impl FnOnce() + use<> {
        let format = self.larder.root().join("cache/format");
        let good = fs::read_to_string(&format).expect("the cache is there");
        fs::write(&format, good.replace("larder-cache 2", "larder-cache 3")).expect("our own root");
        move || fs::write(&format, good).expect("our own root")
    }

    /// The status, once the daemon has given up.
    fn gave_up(&self) -> Value {
        let begun = Instant::now();
        loop {
            let outcome = self.larder.run(["status", "--json"]);
            if let Ok(status) = serde_json::from_slice::<Value>(&outcome.stdout)
                && !status["gave_up"].is_null()
            {
                return status;
            }
            assert!(begun.elapsed() < Duration::from_secs(120), "it does not give up");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Everything is right again.
    fn assert_serves(&self) {
        let status = self.larder.status();
        assert!(status["gave_up"].is_null(), "{status:#}");
        assert_ne!(status["mounts"][0]["state"], "failing", "{status:#}");
        support::compare::assert_same(&self.larder.path("source"), &self.target);
    }
}

fn assert_eio(read: io::Result<Vec<u8>>) {
    let error = read.expect_err("nobody serves");
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
}

fn p3_readers_get_errors_while_workers_die_and_their_bytes_when_one_serves(frontend: &str) {
    let test = "p3_readers_get_errors_while_workers_die_and_their_bytes_when_one_serves";
    let Some(rig) = Rig::new(test, frontend, |_| {}) else { return };
    let larder = &rig.larder;
    // So that the first worker does not have its bytes before it dies.
    rig.image.registry.set_latency(Duration::from_secs(600));
    let waiting = thread::spawn({
        let file = rig.file(0);
        move || fs::read(file)
    });
    let mend = rig.break_cache();
    kill(larder.worker(), Signal::KILL);

    let status = rig.gave_up();
    assert_eio(waiting.join().expect("it does not panic"));
    for _ in 0..2 {
        assert_eio(fs::read(rig.file(1)));
    }
    let gave_up = &status["gave_up"];
    let reason = gave_up["reason"].as_str().expect("a text");
    assert!(
        reason.contains(&format!("{DEATHS} workers in a row")) && reason.contains("with status 1"),
        "{reason}"
    );
    assert!(
        gave_up["last_error"]["error"].as_str().is_some_and(|said| said.contains("newer release")),
        "{gave_up:#}"
    );
    assert_eq!(status["mounts"][0]["state"], "failing", "{status:#}");
    let said = String::from_utf8(larder.run(["status"]).ok().stdout).expect("text");
    for words in ["gave up: ", "newer release", "failing", "larder daemon --replace", "daemon.log"] {
        assert!(said.contains(words), "{words}: {said}");
    }

    // Nothing spins, nothing else is offered, and the cause is told once more to whoever tries again.
    let said = larder.run([OsStr::new("umount"), rig.target.as_os_str()]).failed();
    assert!(said.contains("the daemon gave up"), "{said}");
    let said = larder.run(["daemon", "--replace"]).failed();
    assert!(said.contains("newer release"), "{said}");
    assert!(larder.log().matches("the worker ended").count() <= 2 * DEATHS, "{}", larder.log());

    rig.image.registry.set_latency(Duration::ZERO);
    mend();
    let status = larder.run(["daemon", "--replace", "--json"]).json();
    assert!(status["gave_up"].is_null(), "{status:#}");
    rig.assert_serves();
    larder.run([OsStr::new("umount"), rig.target.as_os_str()]).ok();
}

#[test]
fn p3_readers_get_errors_while_workers_die_through_fanotify() {
    p3_readers_get_errors_while_workers_die_and_their_bytes_when_one_serves("fanotify");
}

#[test]
fn p3_readers_get_errors_while_workers_die_through_fuse_blob() {
    p3_readers_get_errors_while_workers_die_and_their_bytes_when_one_serves("fuse-blob");
}

#[test]
fn p3_readers_get_errors_while_workers_die_through_cachefiles() {
    p3_readers_get_errors_while_workers_die_and_their_bytes_when_one_serves("cachefiles");
}

#[test]
fn p3_readers_get_errors_while_workers_die_through_fuse() {
    p3_readers_get_errors_while_workers_die_and_their_bytes_when_one_serves("fuse");
}

/// A program that was replaced by something that does not run: who stands in is the keeper's own.
#[test]
fn p3_a_program_that_dies_by_a_signal_is_stood_in_for_by_the_keepers_own() {
    let test = "p3_a_program_that_dies_by_a_signal_is_stood_in_for_by_the_keepers_own";
    for frontend in support::FRONT_ENDS {
        let start = |larder: &Larder| {
            let program = program(larder);
            fs::copy(binary(), &program).expect("it can be copied");
            let mut command = command(User::Same, &program);
            command.arg("--root").arg(larder.root()).args(["daemon", "--detach"]);
            run(command).ok();
        };
        let Some(rig) = Rig::new(test, frontend, start) else { continue };
        let program = program(&rig.larder);
        fs::remove_file(&program).expect("it is there");
        fs::write(&program, "#!/bin/sh\nkill -SEGV $$\n").expect("our own directory");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("our own file");
        kill(rig.larder.worker(), Signal::KILL);
        let status = rig.gave_up();
        let reason = status["gave_up"]["reason"].as_str().expect("a text");
        assert!(reason.contains("by signal 11"), "{reason}");
        assert!(status["gave_up"]["last_error"].is_null(), "{status:#}");
        assert_eio(fs::read(rig.file(0)));
        // One more try, as the keeper makes it by itself in time, and in vain.
        let stood_in = support::daemon::pid(&status, "worker").expect("it stands in");
        kill(stood_in, Signal::HUP);
        let begun = Instant::now();
        while rig.gave_up()["worker"]["pid"] == status["worker"]["pid"] {
            assert!(begun.elapsed() < Duration::from_secs(60), "nobody tries again");
            thread::sleep(Duration::from_millis(20));
        }
        assert_eio(fs::read(rig.file(0)));
        let status = rig.larder.run(["daemon", "--replace", "--json"]).json();
        assert!(status["gave_up"].is_null(), "{status:#}");
        rig.assert_serves();
        // One front end has shown it.
        return;
    }
}

fn program(larder: &Larder) -> PathBuf {
    larder.path("other-larder")
}

fn p1_a_daemon_that_gave_up_is_stopped_without_zeros(frontend: &str, stop: impl FnOnce(&Larder)) {
    let test = "p1_a_daemon_that_gave_up_is_stopped_without_zeros";
    let Some(rig) = Rig::new(test, frontend, |_| {}) else { return };
    let file = File::open(rig.file(0)).expect("it is in the image");
    let _mend = rig.break_cache();
    kill(rig.larder.worker(), Signal::KILL);
    rig.gave_up();
    let said = rig.larder.run(["daemon", "--stop"]).failed();
    assert!(said.contains("can only detach") && said.contains("--lazy"), "{said}");
    stop(&rig.larder);
    let begun = Instant::now();
    while !rig.larder.mounted().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(30), "{}", rig.larder.log());
        thread::sleep(Duration::from_millis(10));
    }
    for at in [0, FILE_BYTES / 2] {
        let at = u64::try_from(at).expect("small");
        file.read_exact_at(&mut [0; 4096], at).expect_err("these bytes were never here");
    }
    drop(file);
    let begun = Instant::now();
    while !rig.larder.processes().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(30), "{}", rig.larder.log());
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn p1_a_daemon_that_gave_up_is_stopped_without_zeros_through_fanotify() {
    p1_a_daemon_that_gave_up_is_stopped_without_zeros("fanotify", |larder| {
        let keeper = support::daemon::pid(&larder.status(), "keeper").expect("a keeper");
        kill(keeper, Signal::TERM);
    });
}

#[test]
fn p1_a_daemon_that_gave_up_is_stopped_without_zeros_through_fuse_blob() {
    p1_a_daemon_that_gave_up_is_stopped_without_zeros("fuse-blob", |larder| {
        larder.run(["daemon", "--stop", "--lazy"]).ok();
    });
}

#[test]
fn p4_a_daemon_that_gave_up_detaches_what_it_can_and_tries_the_rest_again() {
    p1_a_daemon_that_gave_up_is_stopped_without_zeros("fuse", |larder| {
        let unreadable = larder.root().join("state/mounts/ab.json");
        fs::create_dir(&unreadable).expect("our own root");
        let keeper = support::daemon::pid(&larder.status(), "keeper").expect("a keeper");
        kill(keeper, Signal::TERM);
        let begun = Instant::now();
        while !larder.mounted().is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(30), "{}", larder.log());
            thread::sleep(Duration::from_millis(10));
        }
        let said = larder.run(["daemon", "--stop", "--lazy"]).failed();
        assert!(said.contains("ab.json"), "{said}");
        // The signal is not given twice.
        fs::remove_dir(&unreadable).expect("it is there");
    });
}

/// Somebody has taken our mount away meanwhile, and mounted something of the same kind there.
fn what_lies_in_the_place_of_ours_stays_when_one_who_stands_in_stops(frontend: &str) {
    let test = "what_lies_in_the_place_of_ours_stays_when_one_who_stands_in_stops";
    let Some(rig) = Rig::new(test, frontend, |_| {}) else { return };
    let _mend = rig.break_cache();
    kill(rig.larder.worker(), Signal::KILL);
    rig.gave_up();
    rustix::mount::unmount(&rig.target, UnmountFlags::DETACH).expect("this is root");
    // Of another daemon, and of the same image: not even its name tells it from ours.
    let other = Larder::new(User::Same);
    let (image, target) = (rig.image.reference(), rig.target.as_os_str());
    let args = ["mount", "--frontend", frontend, &image].map(OsStr::new);
    other.run(args.into_iter().chain([target])).ok();
    rig.larder.run(["daemon", "--stop", "--lazy"]).ok();
    support::compare::assert_same(&rig.larder.path("source"), &rig.target);
    assert!(rig.larder.log().contains("is not this daemon's"), "{}", rig.larder.log());
    other.run([OsStr::new("umount"), target]).ok();
}

#[test]
fn what_lies_in_the_place_of_ours_stays_through_fanotify() {
    what_lies_in_the_place_of_ours_stays_when_one_who_stands_in_stops("fanotify");
}

#[test]
fn what_lies_in_the_place_of_ours_stays_through_fuse_blob() {
    what_lies_in_the_place_of_ours_stays_when_one_who_stands_in_stops("fuse-blob");
}

#[test]
fn what_lies_in_the_place_of_ours_stays_through_fuse() {
    what_lies_in_the_place_of_ours_stays_when_one_who_stands_in_stops("fuse");
}
