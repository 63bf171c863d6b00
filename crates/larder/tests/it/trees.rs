//! Trees of remote stores, mounted by the daemon: read, changed while they are read, resumed, refused.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use larder_testkit::{Behaviour, Listing, Moto, Nginx, OddServer};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::caches::{drop_caches, keep_caches};
use crate::support::daemon::kill;
use crate::support::program::{User, run};
use crate::support::tree::noise;
use crate::support::{self, Larder, skip};

/// A daemon, unless FUSE does not work here.
fn larder(test: &str) -> Option<Larder> {
    let larder = Larder::new(User::Same);
    match larder.cannot("fuse") {
        Some(why) => {
            skip(test, &why);
            None
        }
        None => Some(larder),
    }
}

#[track_caller]
fn mount(larder: &Larder, address: &str, name: &str, options: &[&str]) -> PathBuf {
    let target = larder.dir(name);
    let target_text = target.to_str().expect("plain").to_owned();
    larder.run(["mount"].iter().chain(options).copied().chain([address, &target_text])).ok();
    target
}

fn umount(larder: &Larder, target: &Path) {
    larder.run(["umount".as_ref(), target.as_os_str()]).ok();
}

/// A counter of how trees are read, by group and name.
#[track_caller]
fn counter(larder: &Larder, group: &str, name: &str) -> u64 {
    let told = larder.run(["status", "--cache", "--json"]).ok().stdout;
    let told: serde_json::Value = serde_json::from_slice(&told).expect("JSON");
    let named = |list: &serde_json::Value, name: &str| {
        list.as_array()
            .into_iter()
            .flatten()
            .find(|entry| entry["name"] == name)
            .cloned()
            .expect("it is told")
    };
    named(&named(&told["netfs"], group)["counters"], name)["value"].as_u64().expect("a number")
}

#[test]
fn a_tree_of_a_web_server_is_read_like_a_directory() {
    let Some(larder) = larder("a_tree_of_a_web_server") else { return };
    let source = larder.dir("source");
    support::tree::plain(&source);
    fs::write(source.join("big"), noise(1, 20 << 20)).expect("written");
    // What was changed a moment ago would not be cached yet.
    let before = SystemTime::now() - Duration::from_secs(60);
    File::options()
        .write(true)
        .open(source.join("big"))
        .and_then(|big| big.set_modified(before))
        .expect("ours");
    fs::write(source.join("name with é and %"), b"odd").expect("written");
    let nginx = match Nginx::start(&source, Listing::Index) {
        Ok(nginx) => nginx,
        Err(why) => return skip("a_tree_of_a_web_server", &why),
    };
    let target = mount(&larder, &nginx.url(), "mnt", &[]);
    assert!(fs::read(target.join("big")).expect("readable") == noise(1, 20 << 20));
    assert_eq!(fs::read(target.join("name with é and %")).expect("readable"), b"odd");
    let names = |dir: &Path| -> BTreeSet<_> {
        fs::read_dir(dir).expect("listed").map(|entry| entry.expect("an entry").file_name()).collect()
    };
    assert_eq!(names(&target), names(&source));
    assert_eq!(names(&target.join("lib")), names(&source.join("lib")));
    let (found, expected) = (target.join("big").metadata().unwrap(), source.join("big").metadata().unwrap());
    assert_eq!((found.size(), found.mtime()), (expected.size(), expected.mtime()));
    assert_eq!(fs::metadata(target.join("none")).unwrap_err().raw_os_error(), Some(libc::ENOENT));
    assert_eq!(fs::write(target.join("big"), "x").unwrap_err().raw_os_error(), Some(libc::EROFS));
    let status = larder.mount_status(&target);
    assert_eq!((status["kind"].as_str(), status["frontend"].as_str()), (Some("tree"), Some("fuse")));
    let fetched = status["fetched_bytes"].as_u64().expect("a number");
    let downloaded = counter(&larder, "DownOps", "dlb");
    assert!(downloaded >= 20 << 20, "{downloaded}");
    assert!(counter(&larder, "Reads", "RP") > 0 && counter(&larder, "CaWrOps", "ws") > 0);
    drop_caches();
    assert!(fs::read(target.join("big")).expect("readable") == noise(1, 20 << 20));
    let again = larder.mount_status(&target)["fetched_bytes"].as_u64().expect("a number");
    assert_eq!(again, fetched, "read from the cache");
    assert_eq!(counter(&larder, "DownOps", "dlb"), downloaded);
    let table = String::from_utf8(larder.run(["status", "--cache"]).ok().stdout).expect("text");
    assert!(table.contains(&format!("dlb={downloaded}\n")) && table.contains("\nLookups "), "{table}");
    umount(&larder, &target);
    assert!(!target.join("big").exists());
    // What was cached outlives the mount, and the daemon.
    larder.run(["daemon", "--stop"]).ok();
    let target = mount(&larder, &nginx.url(), "mnt2", &[]);
    assert!(fs::read(target.join("big")).expect("readable") == noise(1, 20 << 20));
    let status = larder.mount_status(&target);
    assert!(status["fetched_bytes"].as_u64().expect("a number") < 1 << 20, "{status:#}");
}

#[test]
fn a_tree_of_a_bucket_is_read_like_a_directory() {
    let Some(larder) = larder("a_tree_of_a_bucket") else { return };
    let moto = match Moto::start() {
        Ok(moto) => moto,
        Err(why) => return skip("a_tree_of_a_bucket", &why),
    };
    moto.put("bucket", b"");
    moto.put("bucket/set/weights.bin", &noise(2, 9 << 20));
    moto.put("bucket/set/a/b/c", b"deep");
    let target = larder.dir("mnt");
    let mut command = larder.command(["mount", "s3://bucket/set"]);
    command.arg(&target).env("AWS_ENDPOINT_URL", moto.endpoint()).env("AWS_REGION", "us-east-1");
    command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "larder-secret");
    run(command).ok();
    assert!(fs::read(target.join("weights.bin")).expect("readable") == noise(2, 9 << 20));
    assert_eq!(fs::read(target.join("a/b/c")).expect("readable"), b"deep");
    let listed: BTreeSet<_> =
        fs::read_dir(&target).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(listed, ["a".into(), "weights.bin".into()].into());
    moto.put("bucket/set/weights.bin", &noise(3, 9 << 20));
    assert!(fs::read(target.join("weights.bin")).expect("readable") == noise(3, 9 << 20), "all new");
    assert!(
        !larder.log().contains("larder-secret") && !larder.status().to_string().contains("larder-secret")
    );
    umount(&larder, &target);
}

/// A file whose every 8 bytes say which version they are of and where they stand.
fn versioned(version: u64, len: usize) -> Vec<u8> {
    (0..len as u64 / 8).flat_map(|word| (version << 40 | word).to_le_bytes()).collect()
}

/// The version that all of `bytes`, from byte `at` of the file, are of.
///
/// # Panics
///
/// When they are not all of one.
#[track_caller]
fn version_of(bytes: &[u8], at: u64) -> u64 {
    let mut words = bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("8 bytes")));
    let first = words.next().expect("some bytes");
    let version = first >> 40;
    assert_eq!(first & 0xff_ffff_ffff, at / 8, "bytes of another place");
    for (n, word) in (1..).zip(words) {
        assert_eq!(word, version << 40 | (at / 8 + n), "old and new bytes in one read");
    }
    version
}

/// Show 3 of the cache core: readers read, from the server and from the cache, while the file is replaced again and
/// again. Every read is of one version; an open file keeps to its own or says ESTALE; a reopened one is new.
fn p1_no_read_mixes_versions(behaviour: Behaviour) {
    const LEN: usize = 3 << 20;
    const READ: usize = 128 << 10;
    let test = "p1_no_read_mixes_versions_of_a_file_that_is_overwritten";
    let Some(larder) = larder(test) else { return };
    let server = OddServer::start();
    server.behave(behaviour);
    server.put("dir/file", versioned(1, LEN));
    let target = mount(&larder, &server.url(), "mnt", &[]);
    let file = target.join("dir/file");
    // What the server has for certain: an open after this was set must not give anything older.
    let published = AtomicU64::new(1);
    let ended = AtomicBool::new(false);
    let (stale, whole, overtaken) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for reader in 0..4_u64 {
            let (file, published, ended) = (&file, &published, &ended);
            let (stale, whole, overtaken) = (&stale, &whole, &overtaken);
            scope.spawn(move || {
                let mut buffer = vec![0; READ];
                while !ended.load(Ordering::Relaxed) {
                    let oldest = published.load(Ordering::Acquire);
                    let open = match File::open(file) {
                        Ok(open) => open,
                        // Replaced twice while it was being opened.
                        Err(error) if error.raw_os_error() == Some(libc::ESTALE) => continue,
                        Err(error) => panic!("{error}"),
                    };
                    let mut of_this_open = None;
                    for step in 0..(LEN / READ) as u64 {
                        // One of them reads on only when the file that it has begun is not the newest any more.
                        if reader == 0 && step == 1 {
                            while published.load(Ordering::Acquire) == oldest
                                && !ended.load(Ordering::Relaxed)
                            {
                                thread::sleep(Duration::from_millis(1));
                            }
                            overtaken.fetch_add(1, Ordering::Relaxed);
                        }
                        // Some from the front, some from anywhere.
                        let place =
                            if reader % 2 == 0 { step } else { (step * 7 + reader) % (LEN / READ) as u64 };
                        let at = place * READ as u64;
                        match open.read_exact_at(&mut buffer, at) {
                            Ok(()) => {
                                let version = version_of(&buffer, at);
                                assert!(version >= oldest, "opened after {oldest}, got {version}");
                                assert_eq!(*of_this_open.get_or_insert(version), version, "one open file");
                            }
                            Err(error) if error.raw_os_error() == Some(libc::ESTALE) => {
                                stale.fetch_add(1, Ordering::Relaxed);
                                break;
                            }
                            Err(error) => panic!("{error}"),
                        }
                        if step + 1 == (LEN / READ) as u64 {
                            whole.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
        for version in 2..=40 {
            let seen = (stale.load(Ordering::Relaxed), whole.load(Ordering::Relaxed));
            server.put("dir/file", versioned(version, LEN));
            published.store(version, Ordering::Release);
            // The next one comes when the readers have met this one.
            let begun = Instant::now();
            while (stale.load(Ordering::Relaxed), whole.load(Ordering::Relaxed)) == seen {
                assert!(begun.elapsed() < Duration::from_secs(60), "no reader got anywhere");
                thread::sleep(Duration::from_millis(1));
            }
        }
        ended.store(true, Ordering::Relaxed);
    });
    let (stale, whole, overtaken) = (stale.into_inner(), whole.into_inner(), overtaken.into_inner());
    println!(
        "{whole} files read whole, {stale} given up as stale, {overtaken} overwritten while they were read"
    );
    assert!(whole > 0 && overtaken > 1, "{whole} whole, {overtaken} overwritten while they were read");
    let last = fs::read(&file).expect("readable");
    assert_eq!(version_of(&last, 0), 40);
    drop_caches();
    assert_eq!(version_of(&fs::read(&file).expect("from the cache"), 0), 40);
    umount(&larder, &target);
}

#[test]
fn p1_no_read_mixes_versions_of_a_file_that_is_overwritten() {
    p1_no_read_mixes_versions(Behaviour::default());
}

#[test]
fn p1_no_read_mixes_versions_when_the_server_has_no_etags_and_ignores_conditions() {
    p1_no_read_mixes_versions(Behaviour { no_etag: true, ignores_conditions: true, ..Behaviour::default() });
}

/// Two contents of one length within one second, which nothing that the server says tells apart.
fn p1_contents_of_one_second(behaviour: Behaviour) {
    const LEN: usize = 3 << 20;
    let Some(larder) = larder("p1_contents_of_one_second") else { return };
    let server = OddServer::start();
    server.behave(behaviour);
    let target = mount(&larder, &server.url(), "mnt", &["--revalidate", "1h"]);
    // So far ahead that the first version is not settled when it is opened, however slow the machine is.
    let (file, then) = (target.join("f"), SystemTime::now() + Duration::from_secs(5));
    let mut page = vec![0; 64 << 10];
    server.put_at("f", versioned(1, LEN), then);
    // Stays open: what it has in memory must not reach those who open the file later.
    let early = File::open(&file).expect("there");
    early.read_exact_at(&mut page, 0).expect("readable");
    assert_eq!(version_of(&page, 0), 1);
    server.put_at("f", versioned(2, LEN), then);
    assert_eq!(version_of(&fs::read(&file).expect("readable"), 0), 2, "old bytes after reopening");
    // By now the time says it all: the file is cached from the next open on.
    thread::sleep((then + Duration::from_secs(4)).duration_since(SystemTime::now()).unwrap_or_default());
    drop(early);
    assert_eq!(version_of(&fs::read(&file).expect("readable"), 0), 2);
    larder.wait_until_complete(1);
    drop_caches();
    let gets = || server.requests().iter().filter(|request| *request == "GET /f").count();
    let before = gets();
    assert_eq!(version_of(&fs::read(&file).expect("readable"), 0), 2);
    assert_eq!(gets(), before, "read from the cache");
    umount(&larder, &target);
}

#[test]
fn p1_contents_of_one_second_are_not_mixed_when_entity_tags_are_made_of_times() {
    p1_contents_of_one_second(Behaviour { etag_of_time: true, ..Behaviour::default() });
}

#[test]
fn p1_contents_of_one_second_are_not_mixed_when_the_server_has_no_etags() {
    p1_contents_of_one_second(Behaviour { no_etag: true, ..Behaviour::default() });
}

#[test]
fn what_a_read_fails_of_is_in_the_log_and_a_tree_is_no_image_to_be_traced() {
    let Some(larder) = larder("what_a_read_fails_of_is_in_the_log") else { return };
    let server = OddServer::start();
    server.behave(Behaviour { ignores_ranges: true, ..Behaviour::default() });
    server.put("small", noise(1, 1 << 20));
    server.put("large", noise(2, 8 << 20));
    let target = mount(&larder, &server.url(), "mnt", &[]);
    assert!(fs::read(target.join("small")).expect("one request gives all of it") == noise(1, 1 << 20));
    let mut page = [0; 4096];
    let large = File::open(target.join("large")).expect("there");
    let error = large.read_exact_at(&mut page, 4 << 20).expect_err("a part cannot be had");
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    assert!(larder.log().contains("the server ignored the range"), "{}", larder.log());
    let said = larder.run(["trace".as_ref(), "--image".as_ref(), target.as_os_str()]).failed();
    assert!(said.contains("is a tree, no image"), "{said}");
}

#[test]
fn an_open_file_keeps_to_its_version_and_a_reopened_one_is_new() {
    let Some(larder) = larder("an_open_file_keeps_to_its_version") else { return };
    let server = OddServer::start();
    server.put("f", versioned(1, 8 << 20));
    let target = mount(&larder, &server.url(), "mnt", &[]);
    let old = File::open(target.join("f")).expect("there");
    let mut page = [0; 4096];
    let kept = keep_caches();
    old.read_exact_at(&mut page, 0).expect("readable");
    server.put("f", versioned(2, 4 << 20));
    old.read_exact_at(&mut page, 0).expect("the kernel has it");
    drop(kept);
    assert_eq!(version_of(&page, 0), 1);
    let error = old.read_exact_at(&mut page, 7 << 20).expect_err("it is gone");
    assert_eq!(error.raw_os_error(), Some(libc::ESTALE));
    assert_eq!(counter(&larder, "Reads", "stale"), counter(&larder, "Reads", "err"));
    assert!(counter(&larder, "Reads", "stale") > 0);
    let new = File::open(target.join("f")).expect("there");
    assert_eq!(new.metadata().expect("attributes").len(), 4 << 20);
    new.read_exact_at(&mut page, 0).expect("readable");
    assert_eq!(version_of(&page, 0), 2);
    assert_eq!(old.metadata().expect("attributes").len(), 8 << 20, "an open file shows its own version");
}

#[test]
fn within_its_age_a_file_is_taken_for_unchanged() {
    let Some(larder) = larder("within_its_age") else { return };
    let server = OddServer::start();
    server.put("f", versioned(1, 4096));
    let target = mount(&larder, &server.url(), "mnt", &["--revalidate", "1h"]);
    let _kept = keep_caches();
    assert_eq!(version_of(&fs::read(target.join("f")).expect("readable"), 0), 1);
    server.put("f", versioned(2, 4096));
    let asked = server.requests().len();
    assert_eq!(version_of(&fs::read(target.join("f")).expect("readable"), 0), 1);
    assert_eq!(server.requests().len(), asked, "nothing was asked");
}

#[test]
fn p4_open_files_and_directories_outlive_killed_workers() {
    let test = "p4_open_files_and_directories_outlive_killed_workers";
    let Some(larder) = larder(test) else { return };
    let server = OddServer::start();
    for n in 0..6 {
        server.put(&format!("d/file-{n}"), noise(n, 2 << 20));
    }
    server.behave(Behaviour { delays_ms: 30, ..Behaviour::default() });
    let target = mount(&larder, &server.url(), "mnt", &[]);
    let first = larder.worker();
    let open: Vec<File> =
        (0..6).map(|n| File::open(target.join(format!("d/file-{n}"))).expect("there")).collect();
    thread::scope(|scope| {
        for (n, file) in (0..).zip(&open) {
            scope.spawn(move || {
                let mut found = vec![0; 2 << 20];
                file.read_exact_at(&mut found, 0).unwrap_or_else(|error| panic!("file-{n}: {error}"));
                assert!(found == noise(n, 2 << 20), "file-{n} is wrong");
            });
        }
        for _ in 0..3 {
            kill(larder.worker(), Signal::KILL);
        }
    });
    assert_ne!(larder.worker(), first);
    drop_caches();
    let mut page = [0; 4096];
    for (n, file) in (0..).zip(&open) {
        file.read_exact_at(&mut page, 1 << 20).expect("the new worker knows it");
        assert!(page[..] == noise(n, 2 << 20)[1 << 20..][..4096]);
        assert!(fs::read(target.join(format!("d/file-{n}"))).expect("opened again") == noise(n, 2 << 20));
    }
    assert_eq!(fs::read_dir(target.join("d")).expect("listed").count(), 6);
    drop(open);
    umount(&larder, &target);
    let left = fs::read_dir(larder.root().join("state/mounts")).expect("ours");
    let names = left.map(|entry| entry.expect("an entry").file_name().into_string().expect("ours"));
    // A worker that was killed while it wrote may have left what it wrote to, under a name that nobody reads.
    let left: Vec<_> = names.filter(|name| !name.starts_with(".new-")).collect();
    assert_eq!(left, Vec::<String>::new(), "nothing is left");
}

#[test]
fn what_the_cache_has_for_good_is_read_while_the_worker_stands_still() {
    let test = "what_the_cache_has_for_good_is_read_while_the_worker_stands_still";
    let Some(larder) = larder(test) else { return };
    if let Err(why) = support::reads_past_the_worker() {
        return skip(test, why);
    }
    let server = OddServer::start();
    server.put("f", noise(7, 4 << 20));
    let target = mount(&larder, &server.url(), "mnt", &[]);
    // An open file that the worker is asked for: as long as it is open, others of the same file are as well.
    let asking = File::open(target.join("f")).expect("there");
    assert!(fs::read(target.join("f")).expect("readable") == noise(7, 4 << 20));
    larder.wait_until_complete(1);
    assert!(fs::read(target.join("f")).expect("both open at once") == noise(7, 4 << 20));
    drop(asking);
    drop_caches();
    let files = [(); 2].map(|()| File::open(target.join("f")).expect("there"));
    let worker = Pid::from_raw(larder.worker()).expect("a process");
    kill_process(worker, Signal::STOP).expect("alive");
    let (done, waiting) = mpsc::channel();
    let readers = files.into_iter().map(|file| {
        let done = done.clone();
        thread::spawn(move || {
            let mut found = vec![0; 4 << 20];
            file.read_exact_at(&mut found, 0).expect("readable");
            done.send(found == noise(7, 4 << 20)).expect("somebody waits");
        })
    });
    let readers: Vec<_> = readers.collect();
    let read = [(); 2].map(|()| waiting.recv_timeout(Duration::from_secs(30)));
    kill_process(worker, Signal::CONT).expect("alive");
    readers.into_iter().for_each(|reader| reader.join().expect("no panic"));
    assert_eq!(read, [Ok(true); 2], "read while nobody could answer, or wrong");
    umount(&larder, &target);
}

#[test]
fn what_cannot_be_a_tree_is_refused_with_the_reason() {
    let Some(larder) = larder("what_cannot_be_a_tree") else { return };
    let target = larder.dir("mnt");
    let refuse = |arguments: &[&str], words: &[&str]| {
        let mut command = larder.command(["mount"].iter().chain(arguments));
        command.arg(&target);
        let said = run(command).failed();
        for word in words {
            assert!(said.contains(word), "{arguments:?}: {word:?} is not in:\n{said}");
        }
    };
    refuse(&["http://192.0.2.1/dir/"], &["plain HTTP", "--insecure"]);
    refuse(&["https://h.example/file"], &["ends with '/'"]);
    refuse(&["https://me:hunter2@h.example/"], &["do not belong"]);
    refuse(&["s3://"], &["bucket"]);
    refuse(&["--frontend", "fanotify", "https://h.example/d/"], &["fuse"]);
    refuse(&["--anonymous", "https://h.example/d/"], &["--anonymous is for s3://"]);
    refuse(&["--anonymous", "oci:/srv/x"], &["--anonymous is for trees"]);
    refuse(&["--revalidate", "1m", "oci:/srv/x"], &["--revalidate is for trees"]);
    refuse(&["http://127.0.0.1:9/d/"], &["hint: "]);
    let server = OddServer::start();
    server.put("there", b"1".to_vec());
    refuse(&[&format!("{}none/", server.url())], &["404", "check the address"]);
    assert_eq!(larder.mounted(), Vec::<PathBuf>::new());
}
