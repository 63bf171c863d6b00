//! A tree with every kind of thing, seen through every front end: names, attributes, links, xattrs, contents.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use larder_erofs::writer::{Attributes, Tree};
use larder_erofs::{FileType, Rdev, Timestamp, Xattr};
use larder_mount::keeper::NoKeeper;
use larder_mount::{FrontEnd, FrontEndKind, Mounted, open};

use crate::common::{Unmount, Worker, build, cannot, noise, scratch};

const ENTRIES: usize = 50_000;
/// An ACL with one named user, as `setfacl -m u:1000:r` on a file with mode 0644 makes it.
const ACL: &[u8] = &[
    2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 232, 3, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255, 16,
    0, 4, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255,
];

struct Rig {
    mounted: Box<dyn Mounted>,
    front_end: Arc<dyn FrontEnd>,
    worker: Worker,
    _unmount: Unmount,
    _dir: tempfile::TempDir,
}

impl Rig {
    fn new(kind: FrontEndKind, tree: Tree) -> Option<Self> {
        let dir = scratch();
        if cannot(kind, dir.path()) {
            return None;
        }
        build(tree, dir.path());
        let worker = Worker::open(dir.path(), Arc::new(NoKeeper));
        let front_end =
            open(kind, Arc::clone(&worker.holder), Arc::clone(&worker.engine), &dir.path().join("cache"))
                .unwrap();
        let unmount = Unmount(worker.spec.target.clone());
        let mounted = front_end.mount(worker.spec.clone()).unwrap();
        Some(Self { mounted, front_end, worker, _unmount: unmount, _dir: dir })
    }

    fn path(&self, name: impl AsRef<[u8]>) -> PathBuf {
        self.worker.spec.target.join(OsStr::from_bytes(name.as_ref()))
    }

    fn names(&self, dir: &str) -> BTreeSet<Vec<u8>> {
        let names = fs::read_dir(self.path(dir)).unwrap().map(|entry| entry.unwrap().file_name().into_vec());
        names.collect()
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp { seconds, nanoseconds: 123_456_789 }
}

fn zoo() -> Tree {
    let mut tree = Tree::new();
    let plain = Attributes::default();
    tree.add_file(b"empty", Vec::new(), &plain).unwrap();
    for size in [1, 4095, 4096, 4097, 65_535, 65_536, 65_537, 1 << 20] {
        tree.add_file(format!("size-{size}").as_bytes(), noise(size, 3), &plain).unwrap();
    }
    let mut sparse = vec![0; 1 << 20];
    sparse[700_000] = 1;
    tree.add_file(b"zeros", sparse, &plain).unwrap();
    let odd = Attributes { mode: 0o4711, uid: u32::MAX - 1, gid: 70_000, mtime: at(-86_400) };
    tree.add_file(b"old", b"before 1970".to_vec(), &odd).unwrap();
    tree.add_file(b"new", Vec::new(), &Attributes { mtime: at(1 << 33), ..plain }).unwrap();
    tree.add_file(b"\xff\xfe name", b"x".to_vec(), &plain).unwrap();
    tree.add_file(&[b'l'; 255], b"long".to_vec(), &plain).unwrap();
    tree.add_link(b"second-name", b"old").unwrap();
    tree.add_symlink(b"link", b"../target of\xff a link", &plain).unwrap();
    tree.add_symlink(b"long-link", &[b'p'; 4000], &plain).unwrap();
    tree.add_special(b"null", FileType::CharDevice, Rdev::new(1, 3).unwrap(), &plain).unwrap();
    tree.add_special(b"pipe", FileType::Fifo, Rdev::new(0, 0).unwrap(), &plain).unwrap();
    tree.add_special(b"socket", FileType::Socket, Rdev::new(0, 0).unwrap(), &plain).unwrap();
    tree.add_dir(b"dir/in/dir", &Attributes { mode: 0o1777, ..plain }).unwrap();
    tree.add_file(b"acl", b"x".to_vec(), &Attributes { mode: 0o644, ..plain }).unwrap();
    let xattr = |name: &str, value: &[u8]| Xattr { name: name.into(), value: value.to_vec() };
    let xattrs = [xattr("system.posix_acl_access", ACL), xattr("user.note", b"by hand")];
    tree.set_xattrs(b"acl", &xattrs).unwrap();
    tree.set_xattrs(b"old", &[xattr("security.capability", b"\x01\0\0\x02\0 \0\0\0\0\0\0\0\0\0\0\0\0\0\0")])
        .unwrap();
    tree
}

#[test]
fn every_kind_of_thing_is_shown_as_it_was_given() {
    for kind in FrontEndKind::ALL {
        let Some(rig) = Rig::new(kind, zoo()) else { continue };
        for size in [1, 4095, 4096, 4097, 65_535, 65_536, 65_537, 1 << 20] {
            assert!(fs::read(rig.path(format!("size-{size}"))).unwrap() == noise(size, 3), "{kind}: {size}");
        }
        let zeros = fs::read(rig.path("zeros")).unwrap();
        assert!(zeros.len() == 1 << 20 && zeros.iter().filter(|byte| **byte != 0).count() == 1, "{kind}");
        assert_eq!(fs::read(rig.path("empty")).unwrap(), b"");
        assert_eq!(fs::read(rig.path(b"\xff\xfe name")).unwrap(), b"x");
        assert_eq!(fs::read(rig.path([b'l'; 255])).unwrap(), b"long");

        let old = fs::metadata(rig.path("old")).unwrap();
        let found = (old.mode(), old.uid(), old.gid(), old.mtime(), old.mtime_nsec(), old.nlink());
        assert_eq!(found, (0o104_711, u32::MAX - 1, 70_000, -86_400, 123_456_789, 2), "{kind}");
        assert_eq!(fs::metadata(rig.path("second-name")).unwrap().ino(), old.ino());
        assert_eq!(fs::metadata(rig.path("new")).unwrap().mtime(), 1 << 33);
        assert_eq!(fs::metadata(rig.path("dir/in/dir")).unwrap().mode(), 0o041_777);
        assert_eq!(fs::metadata(rig.path("null")).unwrap().rdev(), 0x103);
        let kind_of = |name: &str| fs::symlink_metadata(rig.path(name)).unwrap().file_type();
        assert!(
            kind_of("null").is_char_device() && kind_of("pipe").is_fifo() && kind_of("socket").is_socket()
        );

        assert_eq!(
            fs::read_link(rig.path("link")).unwrap().as_os_str().as_bytes(),
            b"../target of\xff a link"
        );
        assert_eq!(fs::read_link(rig.path("long-link")).unwrap().as_os_str().len(), 4000);
        assert_eq!(rig.names("dir"), BTreeSet::from([b"in".to_vec()]));
        assert_eq!(fs::metadata(rig.path("missing")).unwrap_err().raw_os_error(), Some(libc::ENOENT));
        assert_eq!(fs::write(rig.path("empty"), "x").unwrap_err().raw_os_error(), Some(libc::EROFS));
        assert_eq!(rustix::fs::statfs(&rig.worker.spec.target).unwrap().f_bfree, 0);
        rig.mounted.unmount(false).unwrap();
        assert!(rig.front_end.is_idle());
        assert!(!rig.path("empty").exists());
    }
}

#[test]
fn xattrs_come_through_with_acls_and_capabilities() {
    for kind in FrontEndKind::ALL {
        let Some(rig) = Rig::new(kind, zoo()) else { continue };
        let get = |path: &str, name: &str| {
            let mut value = vec![0; 256];
            let length = rustix::fs::getxattr(rig.path(path), name, &mut value)?;
            value.truncate(length);
            Ok::<_, rustix::io::Errno>(value)
        };
        assert_eq!(get("acl", "user.note").unwrap(), b"by hand", "{kind}");
        assert_eq!(get("acl", "system.posix_acl_access").unwrap(), ACL, "{kind}");
        assert_eq!(get("acl", "user.other"), Err(rustix::io::Errno::NODATA), "{kind}");
        assert_eq!(get("old", "security.capability").unwrap().len(), 20, "{kind}");
        let mut names = vec![0_u8; 256];
        let length = rustix::fs::listxattr(rig.path("acl"), &mut names).unwrap();
        let names: BTreeSet<_> =
            names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect();
        let expected: [&[u8]; 2] = [b"system.posix_acl_access", b"user.note"];
        assert_eq!(names, BTreeSet::from(expected), "{kind}");
    }
}

#[test]
fn a_directory_of_50_000_entries_is_listed_whole_and_once() {
    for kind in FrontEndKind::ALL {
        let mut tree = Tree::new();
        tree.add_file(b"data", b"so that there is a blob".to_vec(), &Attributes::default()).unwrap();
        for n in 0..ENTRIES {
            tree.add_file(format!("many/entry-{n:05}").as_bytes(), Vec::new(), &Attributes::default())
                .unwrap();
        }
        let Some(rig) = Rig::new(kind, tree) else { continue };
        for _ in 0..2 {
            let listed: Vec<_> =
                fs::read_dir(rig.path("many")).unwrap().map(|entry| entry.unwrap()).collect();
            assert_eq!(listed.len(), ENTRIES, "{kind}");
            let names: BTreeSet<_> = listed.iter().map(|entry| entry.file_name()).collect();
            assert_eq!(names.len(), ENTRIES, "{kind}: none twice");
            assert!(listed.iter().step_by(997).all(|entry| entry.metadata().unwrap().is_file()), "{kind}");
        }
        assert!(rig.path("many/entry-49999").exists() && !rig.path("many/entry-50000").exists(), "{kind}");
    }
}

/// Small directories beside the large one: enough for OPENDIR to be refused in the middle of it.
const SMALL: usize = 200;

#[test]
fn directories_list_the_same_however_often_and_by_however_many_they_are_opened() {
    for kind in FrontEndKind::ALL {
        let mut tree = Tree::new();
        let plain = Attributes { mode: 0o644, ..Attributes::default() };
        tree.add_file(b"data", b"so that there is a blob".to_vec(), &plain).unwrap();
        let large: BTreeSet<_> = (0..3000).map(|n| format!("entry-{n}").into_bytes()).collect();
        for name in &large {
            let path = [b"large/", name.as_slice()].concat();
            tree.add_file(&path, Vec::new(), &plain).unwrap();
        }
        for n in 0..SMALL {
            for name in ["a", "b"] {
                tree.add_file(format!("small-{n}/{name}").as_bytes(), Vec::new(), &plain).unwrap();
            }
        }
        let Some(rig) = Rig::new(kind, tree) else { continue };
        let small = BTreeSet::from([b"a".to_vec(), b"b".to_vec()]);
        for round in 0..3 {
            thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| assert!(rig.names("large") == large, "{kind}, round {round}"));
                }
                // Given up in the middle, and gone on with in another place.
                scope.spawn(|| {
                    let given_up = fs::read_dir(rig.path("large")).unwrap().take(700).count();
                    assert_eq!(given_up, 700, "{kind}, round {round}");
                    let with_attributes = fs::read_dir(rig.path("large")).unwrap();
                    let files =
                        with_attributes.filter(|entry| entry.as_ref().unwrap().metadata().unwrap().is_file());
                    assert_eq!(files.count(), large.len(), "{kind}, round {round}");
                });
            });
            for n in 0..SMALL {
                assert!(rig.names(&format!("small-{n}")) == small, "{kind}, round {round}, {n}");
            }
        }
    }
}

#[test]
fn a_liar_gives_eio_and_an_honest_source_heals() {
    for kind in FrontEndKind::ALL {
        let Some(rig) = Rig::new(kind, zoo()) else { continue };
        let file = fs::File::open(rig.path("size-1048576")).unwrap();
        let mut page = [0; 4096];
        rig.worker.source.lies.store(true, Ordering::Relaxed);
        let error = file.read_exact_at(&mut page, 500_000).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{kind}");
        rig.worker.source.lies.store(false, Ordering::Relaxed);
        file.read_exact_at(&mut page, 500_000).unwrap();
        assert!(page[..] == noise(1 << 20, 3)[500_000..][..4096], "{kind}");
    }
}
