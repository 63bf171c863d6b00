//! The front end `fuse` without root: mounted and unmounted by fusermount, and a program run inside by its user.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use larder_erofs::writer::{Attributes, Tree};
use larder_mount::keeper::NoKeeper;
use larder_mount::{Error, FrontEndKind, ns, open, probe};

use crate::common::{Unmount, Worker, build, cannot, noise};

/// Nobody.
const UID: u32 = 65_534;
const DIR: &str = "LARDER_TEST_DIR";

#[test]
fn a_user_without_rights_mounts_reads_and_unmounts() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root, to become somebody without rights");
        return;
    }
    // Under /tmp, since the way to the build directory may not be open to everybody.
    let dir = tempfile::tempdir().unwrap();
    let _unmount = Unmount(dir.path().join("mnt"));
    let me = dir.path().join("test");
    fs::copy(std::env::current_exe().unwrap(), &me).unwrap();
    std::os::unix::fs::chown(dir.path(), Some(UID), Some(UID)).unwrap();
    let output = Command::new(&me)
        .args(["--exact", "unprivileged::as_the_user", "--ignored", "--nocapture"])
        .env(DIR, dir.path())
        .current_dir("/")
        .uid(UID)
        .gid(UID)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
#[ignore = "run by the test above, as another user"]
fn as_the_user() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else { return };
    let kind = FrontEndKind::Fuse;
    if cannot(kind, &dir) {
        return;
    }
    assert!(probe(&dir)[0].outcome.as_ref().is_err_and(|why| !why.hint.is_empty()), "fanotify needs root");
    let mut tree = Tree::new();
    tree.add_file(b"file", noise(300_000, 5), &Attributes::default()).unwrap();
    build(tree, &dir);
    let worker = Worker::open(&dir, Arc::new(NoKeeper));
    let front_end =
        open(kind, Arc::clone(&worker.holder), Arc::clone(&worker.engine), &dir.join("cache")).unwrap();
    let mounted = front_end.mount(worker.spec.clone()).unwrap();
    let path = worker.spec.target.join("file");
    assert!(fs::read(&path).unwrap() == noise(300_000, 5));
    let held = fs::File::open(&path).unwrap();
    assert!(matches!(mounted.unmount(false), Err(Error::Busy { .. })));
    let error = ns::command(&worker.spec.target, "/no/such/program").unwrap().status().unwrap_err();
    println!("a namespace of one's own: {error}");
    drop(held);
    mounted.unmount(false).unwrap();
    assert!(!path.exists());
    // Whoever takes it away by hand leaves the helper nothing to do.
    let mounted = front_end.mount(worker.spec.clone()).unwrap();
    let by_hand = Command::new("fusermount3").arg("-u").arg(&worker.spec.target).status().unwrap();
    assert!(by_hand.success());
    mounted.unmount(true).unwrap();
}
