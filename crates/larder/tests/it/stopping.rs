//! Ends of the daemon that come at a bad time, and a start that fails late: neither is lost (P4, P8).

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::Signal;

use crate::support::daemon::{kill, pid};
use crate::support::program::{User, binary, command, run};
use crate::support::{self, Image, Larder, skip, tree};

/// How long something may take that the daemon does by itself.
const PATIENCE: Duration = Duration::from_secs(90);

/// An image, mounted by a front end whose workers can be killed here.
struct Rig {
    image: Image,
    target: PathBuf,
    frontend: &'static str,
    larder: Larder,
}

impl Rig {
    fn new(test: &str) -> Option<Self> {
        Self::with(test, |_| {})
    }

    fn with(test: &str, before_mount: impl FnOnce(&Larder)) -> Option<Self> {
        let larder = Larder::new(User::Same);
        let works =
            |name: &&str| larder.cannot(name).is_none() && support::cannot_replace(name, true).is_none();
        // The one that needs least comes first.
        let Some(frontend) = support::FRONT_ENDS.into_iter().rev().find(works) else {
            skip(test, "no front end works here whose worker can be killed");
            return None;
        };
        let source = larder.dir("source");
        fs::write(source.join("file"), tree::noise(1, 1 << 16)).expect("a file");
        let image = Image::build(&larder, &source, "layout");
        before_mount(&larder);
        let target = larder.mount(&image.reference(), "mnt", frontend);
        Some(Self { image, target, frontend, larder })
    }

    fn keeper(&self) -> i32 {
        pid(&self.larder.status(), "keeper").expect("a keeper")
    }

    /// Lets the next worker wait for the registry, for some seconds, before it serves: the manifest is gone here.
    fn delay_the_next_worker(&self) {
        let manifest = self.larder.mount_status(&self.target)["manifest"].clone();
        let manifest = manifest.as_str().and_then(|digest| digest.strip_prefix("sha256:")).expect("a digest");
        fs::remove_file(self.larder.root().join("state/images/sha256").join(manifest)).expect("it is kept");
        self.image.registry.set_latency(Duration::from_secs(600));
    }

    fn assert_serves(&self) {
        support::compare::assert_same(&self.larder.path("source"), &self.target);
    }

    /// The daemon ends, and has unmounted everything.
    #[track_caller]
    fn assert_ends(&self) {
        wait_for(&self.larder, "the daemon ends", || self.larder.processes().is_empty());
        assert_eq!(self.larder.mounted(), Vec::<PathBuf>::new(), "{}", self.larder.log());
    }
}

#[track_caller]
fn wait_for(larder: &Larder, what: &str, mut is_done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_done() {
        assert!(begun.elapsed() < PATIENCE, "{what}: {}", larder.log());
        thread::sleep(Duration::from_millis(10));
    }
}

fn deaths(larder: &Larder) -> usize {
    larder.log().matches("the worker ended").count()
}

#[test]
fn p4_a_signal_that_comes_before_the_worker_serves_is_obeyed_as_soon_as_it_does() {
    for signal in [Signal::TERM, Signal::INT] {
        let test = "p4_a_signal_that_comes_before_the_worker_serves_is_obeyed_as_soon_as_it_does";
        let Some(rig) = Rig::new(test) else { return };
        let (keeper, worker) = (rig.keeper(), rig.larder.worker());
        rig.delay_the_next_worker();
        kill(worker, Signal::KILL);
        wait_for(&rig.larder, "the next worker starts", || deaths(&rig.larder) == 1);
        kill(keeper, signal);
        let log = rig.larder.log();
        rig.assert_ends();
        assert!(!log.contains("not resumed"), "it served already: {log}");
        assert_eq!(deaths(&rig.larder), 1, "{signal:?}: {}", rig.larder.log());
        assert!(!rig.larder.root().join("run/larder.sock").exists());
    }
}

#[test]
fn p4_a_stop_that_comes_while_the_worker_is_replaced_is_not_lost() {
    let test = "p4_a_stop_that_comes_while_the_worker_is_replaced_is_not_lost";
    for replace in [Signal::HUP, Signal::KILL] {
        for stop_first in [true, false] {
            let Some(rig) = Rig::new(test) else { return };
            let (stop, other) = ((rig.keeper(), Signal::TERM), (rig.larder.worker(), replace));
            let order = if stop_first { [stop, other] } else { [other, stop] };
            for (process, signal) in order {
                kill(process, signal);
            }
            rig.assert_ends();
        }
    }
}

/// Whoever asks for it by the program hears that it was done, or that he has to ask again.
#[test]
fn p4_a_stop_by_the_program_while_the_worker_is_replaced_is_done_or_refused() {
    let test = "p4_a_stop_by_the_program_while_the_worker_is_replaced_is_done_or_refused";
    for wait_ms in [0, 20, 60] {
        let Some(rig) = Rig::new(test) else { return };
        let worker = rig.larder.worker();
        let stopped = thread::scope(|scope| {
            let stop = scope.spawn(|| rig.larder.run(["daemon", "--stop", "--lazy"]));
            thread::sleep(Duration::from_millis(wait_ms));
            // It may have ended already.
            if rig.larder.processes().contains(&worker) {
                kill(worker, Signal::HUP);
            }
            stop.join().expect("it does not panic")
        });
        if stopped.code != 0 {
            assert!(stopped.failed().contains("again"), "it says what to do");
            rig.larder.run(["daemon", "--stop", "--lazy"]).ok();
        }
        rig.assert_ends();
    }
}

#[test]
fn p4_a_worker_that_hangs_before_it_serves_is_ended_after_the_start_limit() {
    let test = "p4_a_worker_that_hangs_before_it_serves_is_ended_after_the_start_limit";
    let program = |larder: &Larder| larder.path("other-larder");
    let start = |larder: &Larder| {
        fs::copy(binary(), program(larder)).expect("it can be copied");
        let mut command = command(User::Same, program(larder));
        command.env("LARDER_START_LIMIT", "2");
        command.arg("--root").arg(larder.root()).args(["daemon", "--detach"]);
        run(command).ok();
    };
    let Some(rig) = Rig::with(test, start) else { return };
    let (program, worker) = (program(&rig.larder), rig.larder.worker());
    fs::remove_file(&program).expect("it is there");
    fs::write(&program, "#!/bin/sh\nexec sleep 600\n").expect("our own directory");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("our own file");
    kill(worker, Signal::KILL);
    let said = "has said nothing for 2s: it is ended";
    wait_for(&rig.larder, "it is ended", || rig.larder.log().contains(said));
    // What hangs then is ended, too, and the next one is the old program again.
    fs::remove_file(&program).expect("it is there");
    fs::copy(binary(), &program).expect("it can be copied");
    rig.assert_serves();
    assert_ne!(rig.larder.worker(), worker);
    rig.larder.run(["daemon", "--stop", "--lazy"]).ok();
}

/// The first worker fails only after it has waited for a registry for some seconds: who has started it is told of what.
#[test]
fn p8_what_the_first_worker_dies_of_late_reaches_who_has_started_the_daemon() {
    let test = "p8_what_the_first_worker_dies_of_late_reaches_who_has_started_the_daemon";
    let Some(rig) = Rig::new(test) else { return };
    let (keeper, worker) = (rig.keeper(), rig.larder.worker());
    rig.delay_the_next_worker();
    kill(keeper, Signal::STOP);
    kill(worker, Signal::KILL);
    kill(keeper, Signal::KILL);
    wait_for(&rig.larder, "they were killed", || rig.larder.processes().is_empty());
    // It comes to that when it has dealt with the mounts.
    let socket = rig.larder.root().join("run/larder.sock");
    fs::remove_file(&socket).expect("nobody has it any more");
    fs::create_dir(&socket).expect("our own root");
    let begun = Instant::now();
    let said = rig.larder.run(["daemon", "--detach"]).failed();
    assert!(begun.elapsed() >= Duration::from_secs(1), "it was not late: {said}");
    assert!(said.contains("did not start") && said.contains("control socket"), "{said}");
    fs::remove_dir(&socket).expect("it is there");
    wait_for(&rig.larder, "nothing stays", || rig.larder.processes().is_empty());
}

#[test]
fn p8_a_stop_that_stays_blocked_says_so_once_and_not_every_second() {
    let test = "p8_a_stop_that_stays_blocked_says_so_once_and_not_every_second";
    let Some(rig) = Rig::new(test) else { return };
    let keeper = rig.keeper();
    if let Err(error) = rustix::mount::mount("tmpfs", &rig.target, "tmpfs", MountFlags::empty(), None) {
        return skip(test, &format!("a cover needs root: {error}"));
    }
    kill(keeper, Signal::TERM);
    let said = "cannot stop yet";
    wait_for(&rig.larder, "it says so", || rig.larder.log().contains(said));
    // It tries again several times meanwhile.
    thread::sleep(Duration::from_secs(5));
    let log = rig.larder.log();
    rustix::mount::unmount(&rig.target, UnmountFlags::DETACH).expect("the cover is mounted");
    assert_eq!(log.matches(said).count(), 1, "{log}");
    assert_eq!(log.matches("umount: ").count(), 1, "{log}");
    assert!(log.contains("mounted over it"), "{log}");
    rig.assert_ends();
    println!("{} has shown it", rig.frontend);
}
