//! FUSE mounts that are there and will never work: a worker died between the kernel's first request and its answer, which Linux
//! 7.3 does not send again, so that whoever touches the mount waits until it is answered; or the connection was aborted.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use larder_erofs::writer::{Attributes, Tree};
use larder_mount::keeper::Holder as _;
use larder_mount::{FrontEnd, FrontEndKind, open};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};

use crate::common::{MapHolder, Unmount, Worker, build, cannot, not_begun, scratch};

/// Longer than anything takes that goes on at all.
const LONG: Duration = Duration::from_secs(60);

struct Rig {
    front_end: Arc<dyn FrontEnd>,
    worker: Worker,
    /// What a reader got who came while nobody answered.
    reader: Receiver<std::io::Result<Vec<u8>>>,
    _unmount: Unmount,
    _dir: tempfile::TempDir,
}

impl Rig {
    /// With the FUSE of the worker that died; or, `as_if`, with a descriptor that gives what Linux 7.3 gives.
    fn new(as_if: bool) -> Option<Self> {
        let dir = scratch();
        if cannot(FrontEndKind::Fuse, dir.path()) {
            return None;
        }
        if !can_resend() {
            println!("skipped: a kernel before Linux 6.9 tells nobody that the first request is lost");
            return None;
        }
        let mut tree = Tree::new();
        tree.add_file(b"file", b"bytes".to_vec(), &Attributes::default()).unwrap();
        build(tree, dir.path());
        let holder = Arc::new(MapHolder::default());
        let worker = Worker::open(dir.path(), Arc::clone(&holder) as _);
        let target = worker.spec.target.clone();
        let unmount = Unmount(target.clone());
        let device = mount(&target);
        let kept = if as_if { not_begun() } else { device.try_clone().unwrap() };
        holder.keep("fuse/m1", kept.as_fd()).unwrap();
        let (told, reader) = channel();
        std::thread::spawn(move || told.send(fs::read(target.join("file"))));
        rustix::io::read(&device, &mut [0; 1 << 16]).expect("the kernel's first request");
        let engine = Arc::clone(&worker.engine);
        let front_end = open(FrontEndKind::Fuse, Arc::clone(&worker.holder), engine, dir.path()).unwrap();
        Some(Self { front_end, worker, reader, _unmount: unmount, _dir: dir })
    }
}

fn can_resend() -> bool {
    let name = rustix::system::uname();
    let release = name.release().to_str().expect("text");
    let mut numbers = release.split('.').map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6_u32, 9_u32)
}

fn mount(target: &Path) -> OwnedFd {
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let data = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
    let data = std::ffi::CString::new(data).unwrap();
    let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID;
    rustix::mount::mount("image", target, "fuse.larder", flags, data.as_c_str()).unwrap();
    device
}

#[test]
fn p4_a_mount_that_has_not_begun_to_work_is_taken_up_all_the_same() {
    for as_if in [false, true] {
        let Some(rig) = Rig::new(as_if) else { return };
        let spec = rig.worker.spec.clone();
        let mounted = rig.front_end.resume(spec.clone()).expect("it is mounted");
        // An error where the first mount had to be taken away.
        if let Ok(read) = rig.reader.recv_timeout(LONG).expect("nobody waits for an answer that never comes")
        {
            assert_eq!(read, b"bytes");
        }
        assert_eq!(fs::read(spec.target.join("file")).unwrap(), b"bytes");
        assert_eq!(rig.front_end.kept_ids(), ["m1"], "the next worker takes it up");
        mounted.unmount(false).unwrap();
        assert!(!spec.target.join("file").exists(), "nothing is left under it");
    }
}

#[test]
fn p4_readers_of_a_mount_that_has_not_begun_to_work_get_errors_when_it_is_refused() {
    for as_if in [false, true] {
        let Some(rig) = Rig::new(as_if) else { return };
        rig.front_end.refuse("m1").unwrap();
        let read = rig.reader.recv_timeout(LONG).expect("nobody waits for an answer that never comes");
        assert!(read.is_err(), "{read:?}");
        assert!(
            !as_if || rig.front_end.kept_ids().is_empty(),
            "a last copy of its descriptor would keep readers waiting"
        );
    }
}

/// As an administrator ends one that hangs, by `umount -f` or through /sys/fs/fuse/connections.
#[test]
fn p4_a_mount_whose_connection_was_aborted_is_made_anew() {
    let Some(rig) = Rig::new(false) else { return };
    let spec = rig.worker.spec.clone();
    let user = rustix::fs::open(&spec.target, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let forced = rustix::mount::unmount(&spec.target, UnmountFlags::FORCE);
    assert_eq!(forced, Err(rustix::io::Errno::BUSY), "aborted, and in use");
    assert!(rig.reader.recv_timeout(LONG).expect("it was waiting").is_err());
    let mounted = rig.front_end.resume(spec.clone()).expect("another one");
    assert_eq!(fs::read(spec.target.join("file")).unwrap(), b"bytes");
    drop(user);
    mounted.unmount(false).unwrap();
    assert!(!spec.target.join("file").exists(), "nothing is left under it");
}
