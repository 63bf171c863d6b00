//! A process that fills objects and is killed: the next one finds out what they take.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use larder_cachefiles::{BootId, Cachefiles, Config, NoHolder};
use larder_fscache::{Backend, CookieKey, ObjectSpec, VolumeKey};

/// Where the child finds its cache.
const ROOT: &str = "LARDER_TEST_UNCLEAN_ROOT";
const SIZE: u64 = 1 << 20;

fn open(root: &Path) -> Cachefiles {
    let boot_id = BootId::of_this_machine().expect("/proc is mounted");
    Cachefiles::open(Config::new(root.to_owned(), boot_id, Arc::new(NoHolder))).expect("fit")
}

fn key(n: u64) -> CookieKey {
    CookieKey::new(&format!("k{n}")).expect("valid")
}

fn volume() -> VolumeKey {
    VolumeKey::new("v").expect("valid")
}

/// Runs as a process of its own, started by the test below, until it is killed.
#[test]
fn a_process_that_fills_until_it_is_killed() {
    let Ok(root) = std::env::var(ROOT) else { return };
    let cache = open(Path::new(&root));
    for n in 0.. {
        let object = cache.acquire(&volume(), &key(n), &ObjectSpec::of_size(SIZE)).expect("space");
        for at in (0..SIZE).step_by(192 << 10).take(usize::try_from(n % 7).expect("small")) {
            object.write(at, &vec![7; 64 << 10]).expect("space");
            if n % 3 > 0 {
                object.commit().expect("a healthy disk");
            }
        }
        println!("filled {n}");
    }
}

/// Bytes of data and maps below a folder, and the number of data files.
fn on_disk(dir: &Path) -> (u64, u64) {
    let (mut bytes, mut files) = (0, 0);
    for entry in fs::read_dir(dir).expect("readable") {
        let entry = entry.expect("readable");
        let found = entry.metadata().expect("there");
        if found.is_dir() {
            let inside = on_disk(&entry.path());
            (bytes, files) = (bytes + inside.0, files + inside.1);
        } else {
            bytes += found.blocks() * 512;
            files += u64::from(!entry.file_name().to_string_lossy().contains('@'));
        }
    }
    (bytes, files)
}

#[test]
fn p5_after_a_kill_the_walk_finds_what_stat_says() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().join("cache");
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "a_process_that_fills_until_it_is_killed", "--nocapture"])
        .env(ROOT, &root)
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    assert!(lines.any(|line| line.is_ok_and(|line| line.contains("filled 40"))), "it fills");
    child.kill().expect("running");
    assert_eq!(child.wait().expect("ours").signal(), Some(9));

    let cache = open(&root);
    while cache.usage().rebuilding {
        std::thread::yield_now();
    }
    let (bytes, files) = on_disk(&root.join("cache"));
    let usage = cache.usage();
    assert!(files > 40 && bytes > 40 << 17, "{files} files, {bytes} bytes");
    assert_eq!((usage.objects, usage.stored_bytes), (files, bytes));
    assert!(usage.charged_bytes >= bytes);
    drop(cache);
    let again = open(&root).usage();
    assert!(!again.rebuilding, "this time the end was clean");
    assert_eq!((again.objects, again.stored_bytes, again.charged_bytes), (files, bytes, usage.charged_bytes));
}
