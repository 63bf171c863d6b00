//! Files opened by their handles, on a real file system: never another than the one that the path leads to.
//!
//! Where files cannot be opened so (no root, a file system without handles), the path is all there is, and the tests of the
//! promise hold all the same.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use larder_cachefiles::{BootId, Cachefiles, Config, NoHolder};
use larder_fscache::{AuxData, Backend, CacheObject, CookieKey, ObjectSpec, VolumeKey};

const SIZE: u64 = 64 << 10;

/// A cache with one object.
struct Kept {
    dir: tempfile::TempDir,
}

impl Kept {
    /// One that is complete, of bytes 7, and was closed.
    fn filled() -> Self {
        let kept = Self { dir: tempfile::tempdir().expect("a directory") };
        let (cache, object) = kept.open();
        fill(&*object, 7);
        drop((object, cache));
        kept
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    fn open(&self) -> (Cachefiles, Arc<dyn CacheObject>) {
        let cache = open(&self.root());
        let object = acquire(&cache);
        (cache, object)
    }

    fn volume_dir(&self) -> PathBuf {
        self.root().join("cache/v")
    }

    fn data(&self) -> PathBuf {
        let folder = fs::read_dir(self.volume_dir()).expect("there").next().expect("one").expect("readable");
        folder.path().join("k")
    }

    /// Opens the object, whose bytes are to be these, and compares its file with what the path leads to.
    fn is_what_its_path_leads_to(&self, byte: Option<u8>) {
        let (_cache, object) = self.open();
        let opened = rustix::fs::fstat(object.file()).expect("open");
        let named = fs::metadata(self.data()).expect("it has its name");
        assert_eq!((opened.st_dev, opened.st_ino), (named.dev(), named.ino()));
        assert_eq!(object.is_complete(), byte.is_some());
        if let Some(byte) = byte {
            let mut found = vec![0; usize::try_from(SIZE).expect("small")];
            object.read_at(0, &mut found).expect("readable");
            assert!(found.iter().all(|found| *found == byte), "{} for {byte}", found[0]);
        }
    }
}

fn open(root: &Path) -> Cachefiles {
    let boot_id = BootId::of_this_machine().expect("/proc is mounted");
    let cache = Cachefiles::open(Config::new(root.to_owned(), boot_id, Arc::new(NoHolder))).expect("fit");
    cache.acquire_volume(&volume(), &AuxData::default()).expect("space");
    // An index that is not whole is not kept when the cache is closed.
    while cache.usage().rebuilding {
        thread::yield_now();
    }
    cache
}

fn acquire(cache: &Cachefiles) -> Arc<dyn CacheObject> {
    cache.acquire(&volume(), &key(), &ObjectSpec::of_size(SIZE)).expect("space")
}

fn fill(object: &dyn CacheObject, byte: u8) {
    object.write(0, &vec![byte; usize::try_from(SIZE).expect("small")]).expect("space");
    object.commit().expect("a healthy disk");
}

fn volume() -> VolumeKey {
    VolumeKey::new("v").expect("valid")
}

fn key() -> CookieKey {
    CookieKey::new("k").expect("valid")
}

/// Copies with all attributes.
fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status().expect("cp is there");
    assert!(copied.success());
}

fn run(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

/// An ext4 of its own, in a file; `None` where it cannot be made and mounted on `on`, which is said.
fn ext4(image: &Path, on: &Path) -> Option<Mounted> {
    fs::create_dir_all(on).expect("space");
    File::create(image).and_then(|image| image.set_len(64 << 20)).expect("sparse");
    let is_made = run(Command::new("mkfs.ext4").args(["-q", "-O", "verity"]).arg(image));
    let mounted = is_made.then(|| Mounted::of(image, on)).flatten();
    if mounted.is_none() {
        eprintln!("skipped: an ext4 cannot be made and mounted here; run as root, with e2fsprogs");
    }
    mounted
}

/// What is mounted, until the test ends.
struct Mounted(PathBuf);

impl Mounted {
    fn of(image: &Path, on: &Path) -> Option<Self> {
        run(Command::new("mount").args(["-o", "loop"]).args([image, on])).then(|| Self(on.to_owned()))
    }

    fn again(dir: &Path, on: &Path) -> Self {
        assert!(run(Command::new("mount").arg("--bind").args([dir, on])), "as before");
        Self(on.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A thread of the cache may still have a file open that it seals.
        let unmount = || run(Command::new("umount").arg(&self.0));
        assert!((0..100).any(|_| unmount() || {
            thread::sleep(Duration::from_millis(50));
            false
        }));
    }
}

#[test]
fn p1_a_copied_cache_uses_its_own_files() {
    let kept = Kept::filled();
    let old = kept.dir.path().join("old");
    fs::rename(kept.root(), &old).expect("ours");
    copy(&old, &kept.root());
    kept.is_what_its_path_leads_to(Some(7));
}

#[test]
fn p1_a_volume_that_was_moved_away_and_copied_back_is_the_copy() {
    let kept = Kept::filled();
    let old = kept.dir.path().join("old");
    fs::rename(kept.volume_dir(), &old).expect("ours");
    copy(&old, &kept.volume_dir());
    kept.is_what_its_path_leads_to(Some(7));
}

#[test]
fn p1_a_file_that_was_moved_away_and_copied_back_is_the_copy() {
    let kept = Kept::filled();
    let (data, old) = (kept.data(), kept.dir.path().join("old"));
    fs::rename(&data, &old).expect("ours");
    copy(&old, &data);
    kept.is_what_its_path_leads_to(Some(7));
}

#[test]
fn p1_a_file_with_another_name_that_was_replaced_is_the_new_one() {
    let kept = Kept::filled();
    let (data, other) = (kept.data(), kept.dir.path().join("other"));
    fs::hard_link(&data, &other).expect("one file system");
    kept.is_what_its_path_leads_to(Some(7));
    fs::remove_file(&data).expect("ours");
    copy(&other, &data);
    kept.is_what_its_path_leads_to(Some(7));
}

#[test]
fn p1_what_lies_in_the_graveyard_is_not_used() {
    let kept = Kept::filled();
    let grave = kept.root().join("graveyard/1");
    fs::rename(kept.volume_dir(), &grave).expect("ours");
    // A folder of that name is there, and the file is not in it.
    copy(&grave, &kept.volume_dir());
    fs::remove_file(kept.data()).expect("copied");
    kept.is_what_its_path_leads_to(None);
}

#[test]
fn p1_what_was_removed_by_hand_while_somebody_has_it_open_is_not_used() {
    let kept = Kept::filled();
    let _mount = File::open(kept.data()).expect("there");
    fs::remove_file(kept.data()).expect("ours");
    kept.is_what_its_path_leads_to(None);
}

#[test]
fn p1_an_index_that_was_put_back_by_hand_leads_to_no_file_of_its_time() {
    for replaced in [false, true] {
        let kept = Kept::filled();
        let put = |from: PathBuf, to: PathBuf| {
            for name in ["index.redb", "index.seal"] {
                fs::copy(from.join(name), to.join(name)).expect("closed");
            }
        };
        put(kept.root(), kept.dir.path().to_owned());
        let _mount = File::open(kept.data()).expect("there");
        let (cache, object) = kept.open();
        let object = if replaced {
            drop(object);
            cache.replace(&volume(), &key(), &ObjectSpec::of_size(SIZE)).expect("space")
        } else {
            drop(object);
            cache.remove(&volume(), &key()).expect("idle");
            acquire(&cache)
        };
        fill(&*object, 8);
        drop((object, cache));
        put(kept.dir.path().to_owned(), kept.root());
        kept.is_what_its_path_leads_to(Some(8));
    }
}

#[test]
fn p1_a_volume_on_a_file_system_with_the_same_numbers_is_read_there() {
    let kept = Kept { dir: tempfile::tempdir().expect("a directory") };
    let at = |name| kept.dir.path().join(name);
    let Some(one) = ext4(&at("image"), &kept.root()) else { return };
    let (cache, object) = kept.open();
    fill(&*object, 7);
    drop((object, cache));
    drop(one);
    fs::copy(at("image"), at("snapshot")).expect("space");
    fs::create_dir(at("other")).expect("space");
    let _one = Mounted::of(&at("image"), &kept.root()).expect("as before");
    let _other = Mounted::of(&at("snapshot"), &at("other")).expect("as before");
    let _above = Mounted::again(&at("other/cache/v"), &kept.volume_dir());
    kept.is_what_its_path_leads_to(Some(7));
}

#[test]
fn what_was_just_mounted_is_opened_by_handles_and_can_do_all_that_is_needed() {
    let kept = Kept { dir: tempfile::tempdir().expect("a directory") };
    let image = kept.dir.path().join("image");
    let Some(first) = ext4(&image, &kept.root()) else { return };
    let keys = ["part", "whole"].map(|key| CookieKey::new(key).expect("valid"));
    let of = |cache: &Cachefiles, n: usize| {
        cache.acquire(&volume(), &keys[n], &ObjectSpec::of_size(SIZE)).expect("space")
    };
    let cache = open(&kept.root());
    for (n, len) in [4096, 64 << 10].into_iter().enumerate() {
        let object = of(&cache, n);
        object.write(0, &vec![7; len]).expect("space");
        object.commit().expect("a healthy disk");
    }
    drop(cache);
    drop(first);
    let _second = Mounted::of(&image, &kept.root()).expect("as before");
    let cache = open(&kept.root());
    let (part, whole) = (of(&cache, 0), of(&cache, 1));
    for object in [&part, &whole] {
        let by_descriptor = format!("/proc/self/fd/{}", object.file().as_raw_fd());
        let link = fs::read_link(&by_descriptor).expect("open");
        assert_eq!(link, Path::new("/"), "nobody has looked into its folder: the kernel knows no name of it");
        let again = File::open(&by_descriptor).expect("by its descriptor");
        let path = object.path().expect("it has one");
        assert_eq!(again.metadata().expect("open").ino(), fs::metadata(path).expect("there").ino());
    }
    assert!(whole.is_complete() && part.present_bytes() == 4096);
    part.write(4096, &[7; (64 << 10) - 4096]).expect("space");
    part.commit().expect("a healthy disk");
    assert!(part.is_complete());
    drop((part, whole));
    for key in &keys {
        cache.relinquish(&volume(), key).expect("nobody else has it open");
        assert!(cache.open_idle(&volume(), key).expect("idle").expect("there").is_complete());
    }
    cache.maintain().expect("a healthy disk");
}
