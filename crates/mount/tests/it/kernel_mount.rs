//! The front ends that mount the kernel's EROFS, with a real kernel: cold and warm reads, liars, unmounting, recovery.

use std::fs;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use larder_erofs::Xattr;
use larder_erofs::writer::{Attributes, Tree};
use larder_fscache::ObjectRange;
use larder_mount::keeper::{Holder as _, NoKeeper};
use larder_mount::{Error, FrontEndKind, MountSpec};
use larder_ondemand::Cause;

use crate::common::rig::{Abandoned, BIG, KINDS, Rig, start, tree, wait_for};
use crate::common::{
    CHUNK, MapHolder, Unmount, Worker, build, cannot, drop_caches, noise, not_begun, scratch,
};

#[test]
fn p1_a_cold_read_brings_just_its_bytes_and_they_are_right() {
    for rig in Rig::all() {
        let file = fs::File::open(rig.path("big")).unwrap();
        let mut page = [0; 4096];
        file.read_exact_at(&mut page, 3 << 20).unwrap();
        assert_eq!(page[..], noise(BIG, 1)[3 << 20..][..4096]);
        let fetched = rig.worker.source.bytes.load(Ordering::Relaxed);
        assert!((1..BIG as u64 / 4).contains(&fetched), "{fetched} bytes for one page");
        for n in 0..200 {
            let found = fs::read(rig.path(&format!("dir/small-{n}"))).unwrap();
            assert!(found == noise(100 + 37 * n, 100 + n as u64), "small-{n}");
        }
        assert!(fs::read(rig.path("big")).unwrap() == noise(BIG, 1));
        assert!(rig.worker.blob.is_complete());
        assert!(
            rig.worker.source.bytes.load(Ordering::Relaxed) <= rig.worker.blob.size(),
            "nothing came twice"
        );
    }
}

/// Files with so much metadata that little of it is needed to read one.
const WIDE: usize = 1500;

fn wide_tree() -> Tree {
    let mut tree = Tree::new();
    for n in 0..WIDE {
        let name = format!("file-{n:04}");
        tree.add_file(name.as_bytes(), noise(700, n as u64), &Attributes::default()).unwrap();
        let xattr = Xattr { name: "user.much".into(), value: noise(1800, (WIDE + n) as u64) };
        tree.set_xattrs(name.as_bytes(), &[xattr]).unwrap();
    }
    tree
}

#[test]
fn p1_metadata_is_brought_when_it_is_read_where_the_kernel_asks_for_it() {
    for kind in KINDS {
        let dir = scratch();
        if cannot(kind, dir.path()) {
            continue;
        }
        build(wide_tree(), dir.path());
        let mut worker = Worker::open(dir.path(), Arc::new(NoKeeper));
        let front_end = start(kind, &worker, dir.path());
        if !front_end.brings_metadata() {
            println!("skipped: {kind} does not ask for metadata here");
            continue;
        }
        let (blob, source) = worker.bring_metadata(dir.path());
        let target = worker.spec.target.clone();
        let _unmount = Unmount(target.clone());
        let mounted = front_end.mount(worker.spec.clone()).unwrap();
        let read = |n: usize| fs::read(target.join(format!("file-{n:04}")));
        assert!(read(0).unwrap() == noise(700, 0));
        let fetched = source.bytes.load(Ordering::Relaxed);
        assert!(fetched < blob.size() / 2, "{fetched} of {} bytes for one file", blob.size());
        // What is read ahead still comes, and is right.
        while blob.flights_in_hand() > 0 {
            std::thread::yield_now();
        }
        source.lies.store(true, Ordering::Relaxed);
        let present = blob.resources().object().present_bytes();
        let missing = (0..WIDE).rev().find(|n| read(*n).is_err()).expect("some metadata is not here");
        assert_eq!(blob.resources().object().present_bytes(), present, "the cache keeps nothing of it");
        source.lies.store(false, Ordering::Relaxed);
        let told = source.bytes.load(Ordering::Relaxed);
        assert!(read(missing).unwrap() == noise(700, missing as u64), "no error outlives its cause");
        drop_caches();
        for n in 0..WIDE {
            assert!(read(n).unwrap() == noise(700, n as u64), "file-{n:04}");
            let mut value = [0; 1800];
            let path = target.join(format!("file-{n:04}"));
            rustix::fs::getxattr(&path, "user.much", &mut value).unwrap();
            assert!(value[..] == noise(1800, (WIDE + n) as u64), "the xattr of file-{n:04}");
        }
        let brought = source.bytes.load(Ordering::Relaxed) - told;
        assert!(brought <= blob.size() - present, "nothing came twice");
        mounted.unmount(false).unwrap();
    }
}

#[test]
fn p3_a_liar_gives_eio_and_an_honest_source_heals() {
    for rig in Rig::all() {
        rig.worker.source.lies.store(true, Ordering::Relaxed);
        let error = fs::read(rig.path("big")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        assert_eq!(rig.worker.blob.resources().object().present_bytes(), 0, "the cache keeps nothing of it");
        rig.worker.source.lies.store(false, Ordering::Relaxed);
        assert!(fs::read(rig.path("big")).unwrap() == noise(BIG, 1));
    }
}

#[test]
fn a_complete_blob_loses_its_mark_and_reads_on() {
    if let Some(rig) = Rig::new(FrontEndKind::Fanotify) {
        let whole = larder_fscache::ObjectRange::at(0, rig.worker.blob.size());
        rig.worker.runtime.block_on(rig.worker.engine.prefetch(&rig.worker.blob, whole)).unwrap();
        rig.worker.blob.resources().object().commit().unwrap();
        rig.mounted.on_complete(&rig.worker.blob);
        let decisions = rig.worker.blob.cookie().volume().counts().decisions;
        assert!(fs::read(rig.path("big")).unwrap() == noise(BIG, 1));
        assert_eq!(
            rig.worker.blob.cookie().volume().counts().decisions,
            decisions,
            "the kernel asked nobody"
        );
    }
}

#[test]
fn p4_a_mark_that_a_killed_worker_left_on_a_complete_blob_is_taken_off_by_the_next() {
    let first = Rig::kept_by(FrontEndKind::Fanotify, Arc::new(MapHolder::default()));
    let Some(first) = first else { return };
    let worker = &first.worker;
    let whole = larder_fscache::ObjectRange::at(0, worker.blob.size());
    worker.runtime.block_on(worker.engine.prefetch(&worker.blob, whole)).unwrap();
    worker.blob.resources().object().commit().unwrap();
    let left = first.hand_over();
    let (next, front_end) = left.next();
    let mounted = front_end.resume(next.spec.clone()).unwrap();
    let decisions = next.blob.cookie().volume().counts().decisions;
    drop_caches();
    assert!(fs::read(mounted.target().join("big")).unwrap() == noise(BIG, 1));
    assert_eq!(next.blob.cookie().volume().counts().decisions, decisions, "the kernel asked nobody");
    mounted.unmount(false).unwrap();
}

/// The kernel copies large reads from the backing file itself, so these are compared by place and length.
#[test]
fn a_complete_blob_is_read_right_through_fuse_without_asking_the_cache() {
    if let Some(rig) = Rig::new(FrontEndKind::Fuse) {
        let whole = larder_fscache::ObjectRange::at(0, rig.worker.blob.size());
        rig.worker.runtime.block_on(rig.worker.engine.prefetch(&rig.worker.blob, whole)).unwrap();
        rig.worker.blob.resources().object().commit().unwrap();
        let decisions = || rig.worker.blob.cookie().volume().counts().decisions;
        let (file, truth, before) = (fs::File::open(rig.path("big")).unwrap(), noise(BIG, 1), decisions());
        let mut random = fastrand::Rng::with_seed(7);
        for n in 0..200 {
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
            let len = random.usize(1..2 << 20);
            let at = if n % 10 == 0 { BIG - random.usize(..len.min(BIG)) } else { random.usize(..BIG) };
            let mut found = vec![0; len];
            let read = file.read_at(&mut found, at as u64).unwrap();
            let wanted = &truth[at..(at + len).min(BIG)];
            assert!(
                found[..read] == wanted[..read] && (read > 0 || wanted.is_empty()),
                "{len} bytes at {at}"
            );
        }
        assert!(decisions() - before < 400, "most of it was not asked for: {}", decisions() - before);
        assert!(fs::read(rig.path("big")).unwrap() == truth);
    }
}

#[test]
fn the_connection_of_a_detached_mount_is_kept_until_nobody_reads_from_it() {
    let Some(rig) = Rig::kept_by(FrontEndKind::Fuse, Arc::new(MapHolder::default())) else { return };
    let is_kept = || rig.worker.holder.names().contains(&"fuse/m1".to_owned());
    let file = fs::File::open(rig.path("big")).unwrap();
    rig.mounted.unmount(true).unwrap();
    assert!(!rig.mounted.is_gone() && is_kept(), "somebody still uses it");
    drop(file);
    wait_for(|| rig.mounted.is_gone());
    assert!(!is_kept());
}

#[test]
fn a_mount_in_use_is_busy_and_a_detached_one_is_served_to_its_end() {
    for rig in Rig::all().chain(Rig::new(FrontEndKind::Fuse)) {
        let mut file = fs::File::open(rig.path("big")).unwrap();
        assert!(matches!(rig.mounted.unmount(false), Err(Error::Busy { .. })));
        rig.mounted.unmount(true).unwrap();
        assert!(!rig.path("big").exists());
        let mut found = Vec::new();
        file.read_to_end(&mut found).unwrap();
        assert!(found == noise(BIG, 1), "the open file is still right");
        assert!(!rig.front_end.is_idle(), "somebody still uses it");
        drop(file);
        let start = Instant::now();
        while !rig.front_end.is_idle() {
            assert!(start.elapsed() < Duration::from_secs(10), "the superblock is gone, its marks are not");
            std::thread::sleep(Duration::from_millis(5));
        }
        rig.mounted.unmount(false).unwrap();
    }
}

#[test]
fn p1_a_front_end_that_gives_up_gives_errors_and_never_zeros() {
    for rig in Rig::all() {
        let file = fs::File::open(rig.path("big")).unwrap();
        // Until the kernel's fscache has opened the blob, its error is ENOBUFS.
        file.read_exact_at(&mut [0; 4096], 0).unwrap();
        rig.mounted.unmount(true).unwrap();
        rig.front_end.give_up();
        let error = file.read_exact_at(&mut [0; 4096], 4 << 20).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
    }
}

#[test]
fn a_reader_that_is_killed_while_it_waits_leaves_a_number_that_can_be_used_again() {
    for rig in Rig::all() {
        *rig.worker.source.latency.lock().unwrap() = Duration::from_millis(300);
        for _ in 0..3 {
            let mut reader = Command::new("cat").arg(rig.path("big")).stdout(Stdio::null()).spawn().unwrap();
            wait_for(|| rig.mounted.waiting() > 0);
            reader.kill().unwrap();
            reader.wait().unwrap();
            drop_caches();
        }
        *rig.worker.source.latency.lock().unwrap() = Duration::ZERO;
        assert!(fs::read(rig.path("big")).unwrap() == noise(BIG, 1));
        wait_for(|| rig.mounted.waiting() == 0);
    }
}

#[test]
fn a_reader_that_is_killed_is_let_go_before_its_bytes_come() {
    for rig in Rig::all() {
        *rig.worker.source.latency.lock().unwrap() = Duration::from_secs(3600);
        let mut reader = Command::new("cat").arg(rig.path("big")).stdout(Stdio::null()).spawn().unwrap();
        wait_for(|| rig.mounted.waiting() > 0);
        // A signal that does not end it must not be an error for it.
        let pid = rustix::process::Pid::from_child(&reader);
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        assert!(reader.try_wait().unwrap().is_none(), "it still waits");
        reader.kill().unwrap();
        wait_for(|| reader.try_wait().unwrap().is_some());
    }
}

#[test]
fn p4_what_a_worker_hands_over_is_answered_by_the_next() {
    for kind in KINDS {
        p4_what_a_worker_hands_over_is_answered_by_the_next_through(kind);
    }
}

fn p4_what_a_worker_hands_over_is_answered_by_the_next_through(kind: FrontEndKind) {
    let Some(first) = Rig::kept_by(kind, Arc::new(MapHolder::default())) else { return };
    *first.worker.source.latency.lock().unwrap() = Duration::from_secs(3600);
    let reader = std::thread::spawn({
        let path = first.path("big");
        move || fs::read(path).unwrap()
    });
    // EROFS asks again where readahead was denied; who reads the backing file itself would see the error.
    let object = first.worker.blob.resources().object();
    let backing = object.path().expect("the cache has files").to_owned();
    let bare_reader = (kind == FrontEndKind::Fanotify).then(|| {
        std::thread::spawn(move || {
            let mut page = [0; 4096];
            fs::File::open(backing).unwrap().read_exact_at(&mut page, 1 << 20).map(|()| page)
        })
    });
    wait_for(|| first.mounted.waiting() > usize::from(bare_reader.is_some()));
    let left = first.hand_over();
    std::thread::sleep(Duration::from_millis(50));
    assert!(!reader.is_finished(), "a reader was answered by a worker that had handed over");

    let (next, front_end) = left.next();
    let mounted = front_end.resume(next.spec.clone()).unwrap();
    front_end.finish_resume();
    assert!(reader.join().unwrap() == noise(BIG, 1));
    if let Some(bare_reader) = bare_reader {
        let page = bare_reader.join().unwrap().expect("what was in hand is answered, not denied");
        assert!(page[..] == fs::read(left.dir.path().join("blob")).unwrap()[1 << 20..][..4096]);
    }
    mounted.unmount(false).unwrap();
}

/// A page of `file`, which is "big", is right or an error.
fn assert_no_hole(file: &fs::File, when: &str) {
    let mut page = [0; 4096];
    if file.read_exact_at(&mut page, 1 << 20).is_ok() {
        assert!(page[..] == noise(BIG, 1)[1 << 20..][..4096], "{when}");
    }
}

/// What a mount reads that an earlier worker took away is not known: no mark may go before it has gone.
#[test]
fn p1_the_reader_of_a_detached_mount_finds_no_holes_when_another_mount_of_the_image_has_gone() {
    let first = Rig::kept_by(FrontEndKind::Fanotify, Arc::new(MapHolder::default()));
    let Some(first) = first else { return };
    let file = fs::File::open(first.path("big")).unwrap();
    first.mounted.unmount(true).unwrap();
    let left = first.hand_over();
    let (next, front_end) = left.next();
    front_end.finish_resume();
    for id in ["second", "third"] {
        let other = front_end.mount(MountSpec { id: id.to_owned(), ..next.spec.clone() }).unwrap();
        fs::read(next.spec.target.join("dir/small-7")).unwrap();
        other.unmount(false).unwrap();
        wait_for(|| other.is_gone());
        assert_no_hole(&file, id);
    }
    assert!(!front_end.is_idle(), "the first is still read");
    drop(file);
    wait_for(|| front_end.is_idle());
}

/// What such a mount reads is not known either: another one of the image must not take its marks along.
#[test]
fn p1_a_mount_that_waits_to_be_taken_up_finds_no_holes_when_another_mount_of_the_image_has_gone() {
    let first = Rig::kept_by(FrontEndKind::Fanotify, Arc::new(MapHolder::default()));
    let Some(first) = first else { return };
    let left = first.hand_over();
    let (next, front_end) = left.next();
    front_end.finish_resume();
    let elsewhere = left.dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let _unmount_other = Unmount(elsewhere.clone());
    let spec = MountSpec { id: "other".into(), target: elsewhere.clone(), ..next.spec.clone() };
    let other = front_end.mount(spec).unwrap();
    fs::read(elsewhere.join("dir/small-7")).unwrap();
    other.unmount(false).unwrap();
    wait_for(|| other.is_gone());
    let file = fs::File::open(left.spec.target.join("big")).unwrap();
    assert_no_hole(&file, "before it is taken up");
    let MountSpec { id, target, .. } = left.spec.clone();
    let taken_up = front_end.resume(MountSpec { id, target, ..next.spec.clone() }).unwrap();
    drop_caches();
    assert!(fs::read(taken_up.target().join("big")).unwrap() == noise(BIG, 1));
    drop(file);
    taken_up.unmount(false).unwrap();
    wait_for(|| front_end.is_idle());
}

#[test]
fn p1_a_mount_that_nobody_held_is_poisoned_and_detached() {
    for abandoned in Abandoned::all() {
        // A worker that finds nothing kept is another life: what the first one had is gone.
        let (next, spec) = (abandoned.next(), &abandoned.worker.spec);
        assert!(matches!(next.resume(spec.clone()), Err(Error::Poisoned { .. })));
        assert!(!spec.target.join("big").exists(), "detached");
        assert!(matches!(next.resume(spec.clone()), Err(Error::Gone { .. })));
    }
}

/// Everybody dies, and so does the next worker, before it has come to this mount: what that one made anew vouches for nothing.
#[test]
fn p1_a_mount_that_nobody_held_is_poisoned_for_every_later_worker() {
    for (is_left, mut abandoned) in
        [false, true].into_iter().flat_map(|left| Abandoned::all().map(move |one| (left, one)))
    {
        let (kind, holder) = (abandoned.kind, Arc::new(MapHolder::default()));
        if is_left && kind == FrontEndKind::Fanotify {
            let about_the_mount = fs::File::open(abandoned.dir.path().join("metadata")).unwrap();
            holder.keep("erofs/m1", about_the_mount.as_fd()).unwrap();
        }
        abandoned.worker.holder = holder;
        drop(abandoned.next());
        let (next, spec) = (abandoned.next(), &abandoned.worker.spec);
        let resumed = next.resume(spec.clone()).err();
        assert!(matches!(resumed, Some(Error::Poisoned { .. })), "{kind}, {is_left}: {resumed:?}");
        assert!(!spec.target.join("big").exists(), "detached");
    }
}

/// Its connection was aborted. The next worker makes another one, and dies before it has come to the mount.
#[test]
fn p4_a_mount_on_a_fuse_that_has_ended_is_detached_by_whichever_worker_comes_to_it() {
    let holder = Arc::new(MapHolder::default());
    let Some(rig) = Rig::kept_by(FrontEndKind::FuseBlob, Arc::clone(&holder) as _) else { return };
    let left = rig.hand_over();
    holder.keep("fuse-blob/device", not_begun().as_fd()).unwrap();
    drop(left.next());
    let (_worker, next) = left.next();
    let resumed = next.resume(left.spec.clone()).err();
    assert!(matches!(resumed, Some(Error::Poisoned { .. })), "{resumed:?}");
    assert!(!left.spec.target.join("big").exists(), "detached");
}

#[test]
fn p4_a_mount_on_plain_files_outlives_the_fuse_that_it_does_not_need() {
    let dir = scratch();
    if cannot(FrontEndKind::FuseBlob, dir.path()) {
        return;
    }
    build(tree(), dir.path());
    let holder = Arc::new(MapHolder::default());
    let worker = Worker::open(dir.path(), Arc::clone(&holder) as _);
    let (blob, spec) = (Arc::clone(&worker.blob), worker.spec.clone());
    let whole = ObjectRange::at(0, blob.size());
    worker.runtime.block_on(worker.engine.fill(&blob, whole, Cause::Demand { pid: None })).unwrap();
    blob.resources().object().commit().unwrap();
    let _unmount = Unmount(spec.target.clone());
    drop(start(FrontEndKind::FuseBlob, &worker, dir.path()).mount(spec.clone()).unwrap());
    for _ in 0..2 {
        holder.keep("fuse-blob/device", not_begun().as_fd()).unwrap();
        let next = start(FrontEndKind::FuseBlob, &worker, dir.path());
        let mounted = next.resume(spec.clone()).expect("it needs nobody");
        drop_caches();
        assert!(fs::read(mounted.target().join("big")).unwrap() == noise(BIG, 1));
    }
}

#[test]
fn p1_a_poisoned_mount_that_is_still_read_keeps_what_watches_over_it() {
    for kind in KINDS {
        let Some(rig) = Rig::kept_by(kind, Arc::new(MapHolder::default())) else { continue };
        let target = rig.worker.spec.target.clone();
        let file = fs::File::open(target.join("big")).unwrap();
        let left = rig.hand_over();
        let about_the_mount = left.holder.names().into_iter().find(|name| name.ends_with("/m1")).unwrap();
        left.holder.release(&about_the_mount);
        let (_worker, next) = left.next();
        let resumed = next.resume(left.spec.clone()).err();
        assert!(matches!(resumed, Some(Error::Poisoned { .. })), "{resumed:?}");
        next.finish_resume();
        assert!(!target.join("big").exists(), "detached");
        assert!(!next.is_idle(), "{}: {file:?} is open", next.kind());
    }
}

#[test]
fn p2_64_readers_of_one_cold_file_bring_it_once() {
    for rig in Rig::all() {
        *rig.worker.source.latency.lock().unwrap() = Duration::from_millis(5);
        let expected = noise(BIG, 1);
        std::thread::scope(|scope| {
            for _ in 0..64 {
                scope.spawn(|| assert!(fs::read(rig.path("big")).unwrap() == expected));
            }
        });
        assert!(
            rig.worker.source.bytes.load(Ordering::Relaxed) <= rig.worker.blob.size(),
            "nothing came twice"
        );
    }
}

#[test]
fn nothing_is_mounted_twice_or_on_what_is_no_directory_or_from_a_damaged_image() {
    for rig in Rig::all() {
        let mut spec = rig.worker.spec.clone();
        assert!(matches!(rig.front_end.mount(spec.clone()), Err(Error::Mount { .. })), "busy");
        spec.target = rig.dir.path().join("blob");
        assert!(matches!(rig.front_end.mount(spec.clone()), Err(Error::Mount { .. })), "a file");
        spec.target = rig.dir.path().join("other");
        fs::create_dir(&spec.target).unwrap();
        spec.metadata = rig.dir.path().join("missing");
        assert!(matches!(rig.front_end.mount(spec.clone()), Err(Error::Metadata { .. })));
        spec.id = "m2".to_owned();
        let mut metadata = fs::read(rig.dir.path().join("metadata")).unwrap();
        metadata[1024 + 40] ^= 1;
        spec.metadata = rig.dir.path().join("damaged");
        fs::write(&spec.metadata, metadata).unwrap();
        let refused = rig.front_end.mount(spec.clone()).err().expect("the kernel refuses it");
        assert!(refused.to_string().contains("does not mount"), "{refused}");
        let mut page = vec![0; CHUNK];
        fs::File::open(rig.path("big")).unwrap().read_exact(&mut page).unwrap();
        assert!(page[..] == noise(BIG, 1)[..page.len()], "the first mount is not touched by any of it");
    }
}
