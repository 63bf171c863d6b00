//! What the kernel does with a daemon's answers, good and bad: the ground that this front end stands on.
//!
//! They need a kernel with cachefiles' on-demand mode; `cargo xtask uml` boots some.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use larder_erofs::DeviceTag;
use larder_erofs::writer::{Attributes, Options, Tree, write_data};
use larder_fscache::ObjectRange;
use rustix::mount::{UnmountFlags, fsconfig_set_string, unmount};

use super::command::Command;
use super::device::Device;
use super::fill::{copy, whole_pages};
use super::message::{self, Body, MESSAGE_BYTES_MAX, Message, MessageId, OpeningId};
use crate::content::Content;
use crate::erofs::{self, Creator, Options as MountOptions};
use crate::sys::cachefiles::read_complete;
use crate::sys::process::inherit;

/// The blob's name in the kernel.
const BLOB: &str = "blob";

/// The device is there for one test at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The device, bound; an image with one blob; a mount point.
struct Rig {
    device: Device,
    metadata: Content,
    blob: Content,
    dir: tempfile::TempDir,
    _one: std::sync::MutexGuard<'static, ()>,
}

/// What a daemon has open, and what belongs in it.
type Openings = HashMap<OpeningId, (OwnedFd, Content)>;

/// What a daemon does with one message.
type Answer<'a> = dyn FnMut(&Rig, &mut Openings, &Message) + Send + 'a;

impl Rig {
    fn new() -> Option<Self> {
        let one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        let device = Device::open().and_then(|device| device.bind(&root).map(|()| device));
        let device = match device {
            Ok(device) => device,
            Err(error) => {
                println!("skipped: /dev/cachefiles cannot be bound: {error}");
                return None;
            }
        };
        fs::create_dir(dir.path().join("mnt")).unwrap();
        let [metadata, blob] = image(dir.path()).map(|file| Content::of_file(file).unwrap());
        Some(Self { device, metadata, blob, dir, _one: one })
    }

    fn target(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    fn mount(&self, fsid: &str) -> Result<(), crate::Error> {
        let configure = |context: &OwnedFd| {
            fsconfig_set_string(context, "fsid", fsid)?;
            fsconfig_set_string(context, "domain_id", "tests")?;
            fsconfig_set_string(context, "device", BLOB)?;
            Ok(())
        };
        let kept = erofs::Kept::new(&crate::keeper::NoKeeper, fsid.to_owned());
        erofs::mount(&self.target(), &MountOptions::default(), Creator::Here, &kept, configure).map(drop)
    }

    /// Serves with `answer` while `work` runs.
    fn serve<T>(&self, answer: &mut Answer<'_>, work: impl FnOnce() -> T) -> T {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut openings = HashMap::new();
                let mut buffer = [0; MESSAGE_BYTES_MAX];
                while !over.load(Ordering::Acquire) {
                    match self.device.receive(&mut buffer).unwrap() {
                        Some(bytes) => {
                            let message = message::parse(bytes).expect("the kernel's own");
                            answer(self, &mut openings, &message);
                        }
                        None => std::thread::sleep(Duration::from_millis(1)),
                    }
                }
            });
            let _over = SetWhenDropped(&over);
            work()
        })
    }
}

struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = unmount(self.target(), UnmountFlags::DETACH);
    }
}

/// An image in two files, metadata and blob: its `file` is a thousand sevens.
fn image(dir: &Path) -> [File; 2] {
    let mut tree = Tree::new();
    tree.add_file(b"file", vec![7; 1000], &Attributes::default()).unwrap();
    let (mut blob, mut metadata) = (Vec::new(), Vec::new());
    let data = write_data(tree, &Options::default(), &mut blob).unwrap();
    data.write_metadata(&vec![DeviceTag::EMPTY; data.devices().len()], &mut metadata).unwrap();
    ["metadata", "blob"].map(|name| {
        let bytes = if name == "blob" { &blob } else { &metadata };
        fs::write(dir.join(name), bytes).unwrap();
        File::open(dir.join(name)).unwrap()
    })
}

/// OPEN and CLOSE as they should be.
fn open_or_close(rig: &Rig, openings: &mut Openings, message: &Message) {
    match &message.body {
        Body::Open(open) => {
            let content = if *open.name.cookie == *BLOB.as_bytes() { &rig.blob } else { &rig.metadata };
            openings.insert(message.opening, (inherit(open.fd).unwrap(), content.clone()));
            rig.device.tell(Command::Copen(message.id, Ok(content.size()))).unwrap();
        }
        Body::Close => drop(openings.remove(&message.opening)),
        Body::Read(_) => {}
    }
}

/// All as it should be.
fn honest(rig: &Rig, openings: &mut Openings, message: &Message) {
    open_or_close(rig, openings, message);
    if let Body::Read(want) = message.body {
        let (object, content) = &openings[&message.opening];
        copy(content, want, object.as_fd()).unwrap();
        read_complete(object.as_fd(), message.id.0).unwrap();
    }
}

#[test]
fn an_honest_daemons_image_is_mounted_and_read() {
    let Some(rig) = Rig::new() else { return };
    rig.serve(&mut honest, || {
        rig.mount("honest").unwrap();
        assert_eq!(fs::read(rig.target().join("file")).unwrap(), vec![7; 1000]);
        unmount(rig.target(), UnmountFlags::empty()).unwrap();
    });
}

#[test]
fn p1_a_read_that_is_ended_without_its_bytes_is_an_error_and_never_zeros() {
    let Some(rig) = Rig::new() else { return };
    let mut liar = |rig: &Rig, openings: &mut Openings, message: &Message| {
        open_or_close(rig, openings, message);
        if let Body::Read(_) = message.body {
            read_complete(openings[&message.opening].0.as_fd(), message.id.0).unwrap();
        }
    };
    rig.serve(&mut liar, || rig.mount("liar").unwrap_err());
    // It was no lasting harm: the same name is right with an honest daemon.
    rig.serve(&mut honest, || {
        rig.mount("liar").unwrap();
        assert_eq!(fs::read(rig.target().join("file")).unwrap(), vec![7; 1000]);
        unmount(rig.target(), UnmountFlags::empty()).unwrap();
    });
}

#[test]
fn answers_to_what_was_not_asked_are_refused_by_the_kernel() {
    let Some(rig) = Rig::new() else { return };
    let mut refused = 0;
    let mut confused = |rig: &Rig, openings: &mut Openings, message: &Message| {
        let mut refuse = |result: std::io::Result<()>| {
            let error = result.expect_err("the kernel takes no such answer");
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{error}");
            refused += 1;
        };
        refuse(rig.device.tell(Command::Copen(MessageId(message.id.0.wrapping_add(7)), Ok(4096))));
        if let Body::Read(_) = message.body {
            refuse(rig.device.tell(Command::Copen(message.id, Ok(4096))));
            let object = openings[&message.opening].0.as_fd();
            refuse(read_complete(object, message.id.0.wrapping_add(7)));
        }
        honest(rig, openings, message);
        if let Body::Read(_) = message.body {
            refuse(read_complete(openings[&message.opening].0.as_fd(), message.id.0));
        }
    };
    rig.serve(&mut confused, || {
        rig.mount("confused").unwrap();
        assert_eq!(fs::read(rig.target().join("file")).unwrap(), vec![7; 1000]);
        unmount(rig.target(), UnmountFlags::empty()).unwrap();
    });
    assert!(refused > 5, "{refused}");
}

#[test]
fn an_open_that_is_refused_fails_the_mount() {
    let Some(rig) = Rig::new() else { return };
    let mut refuse = |rig: &Rig, _: &mut Openings, message: &Message| {
        if let Body::Open(open) = &message.body {
            let fd = inherit(open.fd).unwrap();
            rig.device.tell(Command::Copen(message.id, Err(libc::ENOENT))).unwrap();
            drop(fd);
        }
    };
    let error = rig.serve(&mut refuse, || rig.mount("refused").unwrap_err());
    assert!(matches!(&error, crate::Error::Mount { .. }), "{error}");
}

/// Why [`copy`] writes whole pages only.
#[test]
fn an_odd_offset_is_refused_by_some_kernels_and_written_elsewhere_by_others() {
    let Some(rig) = Rig::new() else { return };
    let mut odd = None;
    let mut daemon = |rig: &Rig, openings: &mut Openings, message: &Message| {
        if let Body::Read(want) = message.body {
            // Before the right bytes, which then cover what this has done.
            let object = File::from(openings[&message.opening].0.try_clone().unwrap());
            odd = Some(object.write_at(&[1; 512], want.start() + 512));
        }
        honest(rig, openings, message);
    };
    rig.serve(&mut daemon, || {
        rig.mount("odd").unwrap();
        assert_eq!(fs::read(rig.target().join("file")).unwrap(), vec![7; 1000]);
        unmount(rig.target(), UnmountFlags::empty()).unwrap();
    });
    match odd.expect("something was read") {
        Ok(written) => println!("an odd write was taken: {written} bytes, at a place that was not meant"),
        Err(error) => println!("an odd write was refused: {error}"),
    }
    // Whatever is asked, what is written is whole.
    for start in (0..20_000).step_by(333) {
        let pages = whole_pages(ObjectRange::at(start, 700), 1 << 20);
        assert_eq!((pages.start() % 4096, pages.len() % 4096), (0, 0));
    }
}

/// 252 bytes are the kernel's limit, and one more panics it; ours is 200 ([`larder_fscache::CookieKey`]).
#[test]
fn names_up_to_the_limit_are_mounted_and_found_in_messages() {
    let Some(rig) = Rig::new() else { return };
    let asked = Mutex::new(Vec::new());
    let mut daemon = |rig: &Rig, openings: &mut Openings, message: &Message| {
        if let Body::Open(open) = &message.body {
            asked.lock().unwrap().push(open.name.clone());
        }
        honest(rig, openings, message);
    };
    rig.serve(&mut daemon, || {
        for len in [1, 2, 3, 4, 5, 63, 64, 65, 127, 128, 199, 200, 201, 251, 252] {
            let name: String = "aZ9._-".chars().cycle().take(len).collect();
            rig.mount(&name).unwrap_or_else(|error| panic!("{len} bytes: {error:?}"));
            assert_eq!(fs::read(rig.target().join("file")).unwrap(), vec![7; 1000]);
            unmount(rig.target(), UnmountFlags::empty()).unwrap();
            let asked = asked.lock().unwrap();
            let is_it =
                |found: &message::Name| *found.volume == *b"erofs,tests" && *found.cookie == *name.as_bytes();
            assert!(asked.iter().any(is_it), "{len} bytes: {asked:?}");
        }
    });
    for len in [201, 252, 253] {
        assert!(larder_fscache::CookieKey::new(&"k".repeat(len)).is_err(), "ours is shorter");
    }
}

/// CVE-2024-41074 and its like: who closes before the answer gets no object, and the next mount is right.
#[test]
fn a_descriptor_that_is_closed_before_the_answer_does_no_lasting_harm() {
    let Some(rig) = Rig::new() else { return };
    let mut hasty = |rig: &Rig, _: &mut Openings, message: &Message| {
        if let Body::Open(open) = &message.body {
            drop(inherit(open.fd).unwrap());
            let _ = rig.device.tell(Command::Copen(message.id, Ok(rig.metadata.size())));
        }
    };
    rig.serve(&mut hasty, || rig.mount("hasty").unwrap_err());
    rig.serve(&mut honest, || {
        rig.mount("hasty").unwrap();
        assert_eq!(fs::read(rig.target().join("file")).unwrap(), vec![7; 1000]);
        unmount(rig.target(), UnmountFlags::empty()).unwrap();
    });
}

/// The device is one a machine, and an object's descriptor counts as having it.
#[test]
fn nobody_else_can_open_the_device() {
    let Some(rig) = Rig::new() else { return };
    let error = Device::open().expect_err("it is taken");
    assert_eq!(error.raw_os_error(), Some(libc::EBUSY));
    drop(rig);
}

#[test]
fn what_is_in_use_is_not_culled_and_what_is_not_is() {
    let Some(rig) = Rig::new() else { return };
    let cull = |name: &str| {
        let folder = find(&rig.dir.path().join("root/cache"), name)?;
        let device = rig.device.try_clone().unwrap();
        let name = name.to_owned();
        // A thread of its own: it changes its working directory.
        let culled = std::thread::spawn(move || {
            crate::sys::cachefiles::own_working_directory().unwrap();
            rustix::process::chdir(&folder).unwrap();
            device.tell(Command::Cull(&name))
        });
        Some(culled.join().unwrap())
    };
    rig.serve(&mut honest, || {
        rig.mount("culled").unwrap();
        fs::read(rig.target().join("file")).unwrap();
        unmount(rig.target(), UnmountFlags::empty()).unwrap();
        rig.mount("used").unwrap();
        fs::read(rig.target().join("file")).unwrap();
        let result = cull("Dculled").expect("it has a name since it was unmounted");
        result.expect("nobody uses it");
        assert!(find(&rig.dir.path().join("root/cache"), "Dculled").is_none());
        unmount(rig.target(), UnmountFlags::empty()).unwrap();
        rig.mount("used").unwrap();
        let error = cull("Dused").expect("it has a name").expect_err("it is in use");
        assert_eq!(error.raw_os_error(), Some(libc::EBUSY), "{error}");
        unmount(rig.target(), UnmountFlags::empty()).unwrap();
    });
}

fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    fs::read_dir(folder).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        if entry.file_name() == name {
            return Some(folder.to_owned());
        }
        path.is_dir().then(|| find(&path, name)).flatten()
    })
}
