//! A mount point in a file system that hangs, as one of a dead NFS server does: nobody waits for it but who uses it (P4).

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::daemon::kill;
use crate::support::dying::Dying;
use crate::support::program::User;
use crate::support::{self, Image, Larder, skip, tree};

/// Longer than the daemon waits for anything here.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long something may take that does not wait for the file system that hangs.
const SOON: Duration = Duration::from_secs(20);

/// One image mounted twice: where it hangs, and elsewhere.
struct Rig {
    dying: Dying,
    source: PathBuf,
    image: Image,
    hanging: PathBuf,
    well: PathBuf,
    larder: Larder,
}

impl Rig {
    fn new(test: &str) -> Option<Self> {
        let larder = Larder::new(User::Same);
        if let Some(why) = larder.cannot("fuse") {
            skip(test, &why);
            return None;
        }
        if let Some(why) = support::cannot_replace("fuse", true) {
            skip(test, why);
            return None;
        }
        let Some(dying) = Dying::new(larder.dir("a-dying")) else {
            skip(test, "FUSE cannot be mounted here");
            return None;
        };
        let source = larder.dir("source");
        fs::write(source.join("file"), tree::noise(1, 100_000)).expect("a file");
        let image = Image::build(&larder, &source, "layout");
        let hanging = dying.target();
        let rig = Self { well: larder.path("b-well"), dying, source, image, hanging, larder };
        rig.mount(&rig.hanging).ok();
        assert_eq!(rig.larder.mount(&rig.image.reference(), "b-well", "fuse"), rig.well);
        Some(rig)
    }

    fn mount(&self, target: &Path) -> support::program::Outcome {
        let image = self.image.reference();
        self.larder.run(
            ["mount", "--frontend", "fuse", &image].map(OsStr::new).into_iter().chain([target.as_os_str()]),
        )
    }

    fn umount(&self, target: &Path) -> support::program::Outcome {
        self.larder.run([OsStr::new("umount"), OsStr::new("--lazy"), target.as_os_str()])
    }

    fn is_mounted(&self, target: &Path) -> bool {
        self.larder.mounted().iter().any(|path| path == target)
    }

    /// Reads what is mounted on `target`, unless that takes long.
    #[track_caller]
    fn assert_serves(&self, target: &Path) {
        let (told, read) = channel();
        let (file, source) = (target.join("file"), self.source.join("file"));
        thread::spawn(move || {
            told.send(fs::read(file).map(|read| read == fs::read(source).expect("a file")))
        });
        let read =
            read.recv_timeout(SOON).unwrap_or_else(|_| panic!("nobody serves it:\n{}", self.larder.log()));
        assert!(read.expect("it is served"), "other bytes");
    }

    /// Ends keeper and worker at once: what was mounted is lost, and the next daemon takes it away.
    fn kill_all(&self) {
        let processes = self.larder.processes();
        for signal in [Signal::STOP, Signal::KILL] {
            processes.iter().for_each(|pid| kill(*pid, signal));
        }
        let begun = Instant::now();
        while !self.larder.processes().is_empty() {
            assert!(begun.elapsed() < PATIENCE, "they were killed");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn p4_a_mount_that_cannot_be_taken_away_for_now_holds_up_no_daemon_and_is_taken_away_in_the_end() {
    let Some(rig) = Rig::new("p4_a_mount_that_cannot_be_taken_away_for_now_holds_up_no_daemon") else {
        return;
    };
    rig.dying.hang(true);
    rig.kill_all();
    let begun = Instant::now();
    rig.larder.run(["daemon", "--detach"]).ok();
    let status = rig.larder.mount_status(&rig.hanging);
    assert_eq!(status["state"], "failing", "{status:#}");
    let error = status["last_error"].as_str().expect("a text");
    assert!(error.contains("does not answer"), "{error}");
    rig.mount(&rig.well).ok();
    rig.assert_serves(&rig.well);
    rig.umount(&rig.hanging).failed();
    rig.larder.run(["daemon", "--stop", "--lazy"]).failed();
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    assert!(!rig.is_mounted(&rig.well), "a stop detaches what it can");
    assert!(rig.is_mounted(&rig.hanging));

    rig.dying.hang(false);
    let begun = Instant::now();
    while rig.is_mounted(&rig.hanging) {
        assert!(begun.elapsed() < PATIENCE, "{}", rig.larder.log());
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn p4_a_mount_point_that_hangs_holds_up_neither_a_stop_nor_who_unmounts_or_mounts() {
    let Some(rig) = Rig::new("p4_a_mount_point_that_hangs_holds_up_neither_a_stop_nor_who_unmounts") else {
        return;
    };
    rig.dying.hang(true);
    let begun = Instant::now();
    for said in [rig.umount(&rig.hanging).failed(), rig.mount(&rig.hanging).failed()] {
        assert!(said.contains("does not answer"), "{said}");
    }
    rig.larder.run(["daemon", "--stop", "--lazy"]).failed();
    assert!(!rig.is_mounted(&rig.well), "a stop detaches what it can");
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    rig.dying.hang(false);
    let begun = Instant::now();
    while rig.umount(&rig.hanging).code != 0 {
        assert!(begun.elapsed() < PATIENCE, "{}", rig.larder.log());
        thread::sleep(Duration::from_millis(200));
    }
    assert!(!rig.is_mounted(&rig.hanging));
}
