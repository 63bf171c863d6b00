//! `fuse`: files with blobs of their own are read by the kernel itself once they are complete, and nothing else changes.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, CWD, Mode, OFlags, fadvise};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::caches::keep_caches;
use crate::support::daemon::kill;
use crate::support::program::{User, argument, tool};
use crate::support::{self, Image, Larder, compare, skip, tree};

/// No multiple of a block.
const MODEL_BYTES: usize = (3 << 20) + 777;
const OTHER_BYTES: usize = (2 << 20) + 1;
/// Less than has a blob of its own.
const MIDDLE_BYTES: usize = 60_000;
/// How long a reader may take whom nobody has to answer.
const ALONE: Duration = Duration::from_secs(2);
/// How long a file may take to be passed through once it is complete.
const SOON: Duration = Duration::from_secs(60);

fn model() -> Vec<u8> {
    tree::noise(1, MODEL_BYTES)
}

fn other() -> Vec<u8> {
    tree::noise(2, OTHER_BYTES)
}

/// An image mounted through `fuse`, with two large files and a program.
struct Rig {
    larder: Larder,
    source: PathBuf,
    target: PathBuf,
    /// Served as long as it is mounted.
    image: Image,
    /// Objects of its cache.
    objects: usize,
}

impl Rig {
    /// `None`, and says so, where nothing can be passed through.
    fn new(test: &str) -> Option<Self> {
        if let Err(why) = support::reads_past_the_worker() {
            skip(test, why);
            return None;
        }
        let larder = Larder::new(User::Same);
        if let Some(why) =
            larder.cannot("fuse").or_else(|| support::cannot_replace("fuse", true).map(Into::into))
        {
            skip(test, &why);
            return None;
        }
        let source = larder.dir("source");
        fs::create_dir(source.join("d")).expect("new");
        fs::write(source.join("d/model"), model()).expect("a file");
        fs::write(source.join("d/other"), other()).expect("a file");
        fs::write(source.join("d/small"), "small").expect("a file");
        fs::write(source.join("d/middle"), tree::noise(3, MIDDLE_BYTES)).expect("a file");
        fs::copy(tool("sh").expect("a shell"), source.join("sh")).expect("a program");
        fs::hard_link(source.join("d/model"), source.join("link")).expect("a link");
        let layout = larder.path("layout");
        let arguments = ["build".into(), "--own-blob".into(), "64K".into(), argument("dir:", &source)];
        larder.run(arguments.into_iter().chain([argument("oci:", &layout)])).ok();
        let image = Image::opened(&layout);
        let target = larder.mount(&image.reference(), "mnt", "fuse");
        // With its metadata.
        let objects = image.devices().len() + 1;
        assert_eq!(objects, 5, "model, other and sh, the other files, and the metadata");
        Some(Self { larder, source, target, image, objects })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.target.join(name)
    }

    fn open(&self, name: &str) -> File {
        File::open(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Reads everything, and waits until the cache has it for good.
    fn complete(&self) {
        compare::assert_same(&self.source, &self.target);
        self.larder.wait_until_complete(self.objects);
    }

    /// Whether all of `file` can be read while the worker stands still.
    fn is_read_alone(&self, file: &File, expected: &[u8]) -> bool {
        // What the kernel has of the node itself would be read as well.
        fadvise(file, 0, None, Advice::DontNeed).expect("a file");
        let worker = Pid::from_raw(self.larder.worker()).expect("a process");
        let (file, expected) = (file.try_clone().expect("another descriptor"), expected.to_vec());
        let (done, waiting) = mpsc::channel();
        kill_process(worker, Signal::STOP).expect("alive");
        let reader = thread::spawn(move || {
            let mut found = vec![0; expected.len() + 4096];
            let read = read_to_end(&file, &mut found).expect("readable");
            assert!(found[..read] == expected, "other bytes than the image's");
            let _ = done.send(());
        });
        let alone = waiting.recv_timeout(ALONE).is_ok();
        kill_process(worker, Signal::CONT).expect("alive");
        reader.join().expect("right bytes");
        alone
    }

    /// Opens `name` until it is passed through.
    #[track_caller]
    fn passed_through(&self, name: &str, expected: &[u8]) -> File {
        let begun = Instant::now();
        loop {
            let file = self.open(name);
            if self.is_read_alone(&file, expected) {
                return file;
            }
            assert!(begun.elapsed() < SOON, "{name} is not passed through");
            drop(file);
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn kill_worker(&self) {
        let before = self.larder.worker();
        kill(before, Signal::KILL);
        let begun = Instant::now();
        while self.larder.worker() == before {
            assert!(begun.elapsed() < SOON, "no worker follows");
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn end(self) {
        let mount = self.larder.mount_status(&self.target);
        assert!(mount["last_error"].is_null(), "{mount:#}");
        self.larder.run(["umount".as_ref(), self.target.as_os_str()]).ok();
    }
}

/// Reads from the beginning until the file says that it ends.
fn read_to_end(file: &File, found: &mut [u8]) -> io::Result<usize> {
    let mut at = 0;
    loop {
        match file.read_at(&mut found[at..], at as u64)? {
            0 => return Ok(at),
            read => at += read,
        }
    }
}

/// Opens as a program does that wants to be the one who makes the file.
fn create(path: &Path) -> Errno {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::from_raw_mode(0o644)).expect_err("it is there")
}

#[test]
fn a_file_with_a_blob_of_its_own_is_read_while_the_worker_stands_still_once_it_is_complete() {
    let Some(rig) = Rig::new("a_file_with_a_blob_of_its_own_is_read_while_the_worker_stands_still") else {
        return;
    };
    let before = rig.open("d/model");
    let stat = before.metadata().expect("there");
    drop(before);
    rig.complete();
    let file = rig.passed_through("d/model", &model());
    let again = rig.passed_through("d/model", &model());
    let link = rig.passed_through("link", &model());
    let asked = rig.open("d/middle");
    // Now and then the kernel does not give up its pages.
    let is_asked_for = (0..5).any(|_| !rig.is_read_alone(&asked, &tree::noise(3, MIDDLE_BYTES)));
    assert!(is_asked_for, "the control: a file without a blob of its own");

    let now = file.metadata().expect("there");
    let identity =
        |stat: &fs::Metadata| (stat.dev(), stat.ino(), stat.len(), stat.nlink(), stat.mtime(), stat.mode());
    assert_eq!(identity(&now), identity(&stat), "it is the same file for everybody");
    assert_eq!(identity(&link.metadata().expect("there")), identity(&stat));
    let mut end = [1; 100];
    assert_eq!(again.read_at(&mut end, MODEL_BYTES as u64 - 7).expect("readable"), 7);
    assert!(end[..7] == model()[MODEL_BYTES - 7..]);
    for past in [MODEL_BYTES, MODEL_BYTES + 1, MODEL_BYTES + 100_000] {
        assert_eq!(again.read_at(&mut end, past as u64).expect("readable"), 0, "{past}");
    }
    let reopened =
        File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file))).expect("open");
    assert!(rig.is_read_alone(&reopened, &model()));
    drop((file, again, link, reopened, asked));
    rig.end();
}

#[test]
fn programs_run_from_files_that_are_passed_through_and_map_them() {
    let Some(rig) = Rig::new("programs_run_from_files_that_are_passed_through_and_map_them") else { return };
    rig.complete();
    let shell = rig.passed_through("sh", &fs::read(rig.source.join("sh")).expect("there"));
    for _ in 0..3 {
        let status = Command::new(rig.path("sh")).args(["-c", "exit 7"]).status();
        assert_eq!(status.expect("it runs").code(), Some(7));
    }
    let mut waiting = Command::new(rig.path("sh"));
    waiting.args(["-c", "read line; exit 8"]).stdin(Stdio::piped());
    let mut running = waiting.spawn().expect("it runs");
    rig.kill_worker();
    drop(running.stdin.take());
    assert_eq!(running.wait().expect("it ends").code(), Some(8));
    drop(shell);
    rig.end();
}

#[test]
fn p4_files_of_both_kinds_go_on_and_are_opened_again_with_every_worker() {
    let Some(rig) = Rig::new("p4_files_of_both_kinds_go_on_and_are_opened_again_with_every_worker") else {
        return;
    };
    // As long as it is open the file is what it was when it was opened first.
    let asking = rig.open("d/other");
    rig.complete();
    let passing = rig.passed_through("d/model", &model());
    assert!(!rig.is_read_alone(&rig.open("d/other"), &other()), "all who have it open agree");
    for round in 0..3 {
        rig.kill_worker();
        assert!(rig.is_read_alone(&passing, &model()), "round {round}");
        let again = rig.open("d/model");
        assert!(
            rig.is_read_alone(&again, &model()),
            "round {round}: every worker knows that it is passed through"
        );
        let mut found = vec![0; OTHER_BYTES + 1];
        assert_eq!(read_to_end(&asking, &mut found).expect("readable"), OTHER_BYTES);
        assert!(found[..OTHER_BYTES] == other());
        assert!(!rig.is_read_alone(&rig.open("d/other"), &other()));
        assert_eq!(create(&rig.path("d/model")), Errno::EXIST, "the name is looked up anew");
        assert_eq!(create(&rig.path("d/other")), Errno::EXIST);
        let after = rig.open("d/model");
        assert!(rig.is_read_alone(&after, &model()), "round {round}: and leads to the same node");
        compare::assert_same(&rig.source, &rig.target);
    }
    drop(asking);
    let now = rig.passed_through("d/other", &other());
    drop((now, passing));
    rig.end();
}

/// A name that led to another file for the kernel would take away what is mounted on it, and be an error for an overlayfs
/// above as long as that lives.
#[test]
fn p3_what_lies_above_a_file_never_sees_it_change() {
    let test = "p3_what_lies_above_a_file_never_sees_it_change";
    let Some(rig) = Rig::new(test) else { return };
    // On a file system of their own: the test's may be an overlay itself.
    let (layers, merged) = (rig.larder.dir("layers"), rig.larder.dir("merged"));
    rustix::mount::mount("layers", &layers, "tmpfs", MountFlags::empty(), None::<&std::ffi::CStr>)
        .expect("root may");
    let (upper, work) = (layers.join("upper"), layers.join("work"));
    fs::create_dir(&upper).expect("new");
    fs::create_dir(&work).expect("new");
    let options =
        format!("lowerdir={},upperdir={},workdir={}", rig.target.display(), upper.display(), work.display());
    let options = std::ffi::CString::new(options).expect("a plain path");
    let overlaid =
        rustix::mount::mount("overlay", &merged, "overlay", MountFlags::empty(), options.as_c_str());
    if let Err(errno) = overlaid {
        let _ = rustix::mount::unmount(&layers, UnmountFlags::DETACH);
        return skip(test, &format!("no overlayfs above FUSE here: {errno}"));
    }
    // The overlay and the mount know the plain nodes.
    let kept = File::open(merged.join("d/model")).expect("there");
    fs::metadata(merged.join("d/other")).expect("there");
    fs::write(rig.larder.path("cover"), "cover").expect("space");
    rustix::mount::mount_bind(rig.larder.path("cover"), rig.path("sh")).expect("root may");
    for name in ["d/model", "d/other", "d/small", "sh"] {
        assert!(
            fs::read(merged.join(name)).expect("readable") == fs::read(rig.source.join(name)).expect("there")
        );
    }
    rig.larder.wait_until_complete(rig.objects);
    // Until the kernel was told.
    thread::sleep(Duration::from_secs(1));
    for round in 0..2 {
        for name in ["d/model", "d/other"] {
            assert_eq!(create(&merged.join(name)), Errno::EXIST, "round {round}: {name}");
            assert_eq!(create(&rig.path(name)), Errno::EXIST, "round {round}: {name}");
            let expected = fs::read(rig.source.join(name)).expect("there");
            assert!(fs::read(merged.join(name)).expect("readable") == expected, "round {round}: {name}");
        }
        assert_eq!(create(&rig.path("sh")), Errno::EXIST);
        assert_eq!(
            fs::read(rig.path("sh")).expect("readable"),
            b"cover",
            "round {round}: what is mounted there stays"
        );
        fs::read_dir(rig.path("d")).expect("listed").for_each(|entry| {
            entry.expect("an entry").metadata().expect("there");
        });
        rig.kill_worker();
    }
    let mut found = vec![0; MODEL_BYTES + 1];
    assert_eq!(read_to_end(&kept, &mut found).expect("readable"), MODEL_BYTES);
    assert!(found[..MODEL_BYTES] == model());
    // As a package manager replaces a file.
    fs::write(merged.join("d/new"), "new").expect("space");
    fs::rename(merged.join("d/new"), merged.join("d/model")).expect("it can be replaced");
    assert_eq!(fs::read(merged.join("d/model")).expect("readable"), b"new");
    drop(kept);
    for point in [&rig.path("sh"), &merged, &layers] {
        rustix::mount::unmount(point, UnmountFlags::DETACH).expect("it is mounted");
    }
    rig.end();
}

#[test]
fn p4_a_detached_mount_with_open_files_goes_on() {
    let Some(rig) = Rig::new("p4_a_detached_mount_with_open_files_goes_on") else { return };
    rig.complete();
    let passing = rig.passed_through("d/model", &model());
    let asking = rig.open("d/small");
    rig.larder.run(["umount".as_ref(), "--lazy".as_ref(), rig.target.as_os_str()]).ok();
    for _ in 0..2 {
        let mut found = vec![0; MODEL_BYTES + 1];
        assert_eq!(read_to_end(&passing, &mut found).expect("readable"), MODEL_BYTES);
        assert!(found[..MODEL_BYTES] == model());
        let mut found = [0; 6];
        assert_eq!(read_to_end(&asking, &mut found).expect("readable"), 5);
        rig.larder.run(["cache", "prune", "--all"]).ok();
    }
    drop((passing, asking));
    let again = rig.larder.mount(&rig.image.reference(), "again", "fuse");
    compare::assert_same(&rig.source, &again);
    rig.larder.run(["umount".as_ref(), again.as_os_str()]).ok();
}

/// An image without such files has none of it: the kernel opens its files without a question.
#[test]
fn files_of_an_image_without_large_blobs_are_opened_without_a_question() {
    let test = "files_of_an_image_without_large_blobs_are_opened_without_a_question";
    let larder = Larder::new(User::Same);
    if let Some(why) = larder.cannot("fuse") {
        return skip(test, &why);
    }
    let source = larder.dir("source");
    fs::write(source.join("f"), model()).expect("a file");
    let image = Image::build(&larder, &source, "layout");
    let target = larder.mount(&image.reference(), "mnt", "fuse");
    let _kept = keep_caches();
    assert!(fs::read(target.join("f")).expect("readable") == model());
    let worker = Pid::from_raw(larder.worker()).expect("a process");
    kill_process(worker, Signal::STOP).expect("alive");
    let (done, waiting) = mpsc::channel();
    let path = target.join("f");
    let opener = thread::spawn(move || {
        let file = File::open(path).expect("there");
        let _ = done.send(());
        file
    });
    let opened = waiting.recv_timeout(ALONE);
    kill_process(worker, Signal::CONT).expect("alive");
    drop(opener.join().expect("opened"));
    assert_eq!(opened, Ok(()));
    larder.run(["umount".as_ref(), target.as_os_str()]).ok();
}
