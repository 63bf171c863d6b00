//! A cache as a whole: listed, bound, damaged.

use std::ops::ControlFlow;

use super::*;
use crate::NoHolder;

fn open(root: &Path) -> Result<Cachefiles, Error> {
    let boot_id = BootId::from_bytes([1; 16]);
    Cachefiles::open(Config::new(root.to_owned(), boot_id, Arc::new(NoHolder)))
}

fn all(cache: &Cachefiles) -> Vec<ObjectInfo> {
    let mut found = Vec::new();
    cache.objects(|object| {
        found.push(object);
        ControlFlow::Continue(())
    });
    found
}

fn key(text: &str) -> CookieKey {
    CookieKey::new(text).expect("valid")
}

#[test]
fn objects_and_what_they_take_are_listed() {
    let root = tempfile::tempdir().expect("a directory");
    let cache = open(root.path()).expect("fit");
    let volume = VolumeKey::new("v").expect("valid");
    let whole = cache.acquire(&volume, &key("whole"), &ObjectSpec::of_size(8192)).expect("space");
    whole.write(0, &[1; 8192]).expect("space");
    whole.commit().expect("a healthy disk");
    cache.acquire(&volume, &key("holes"), &ObjectSpec::of_size(1 << 30)).expect("sparse");
    let objects = all(&cache);
    let seen: Vec<_> = objects.iter().map(|o| (o.cookie.as_str(), o.size, o.complete)).collect();
    assert_eq!(seen, [("holes", 1 << 30, false), ("whole", 8192, true)]);
    let usage = cache.usage();
    assert_eq!(usage.objects, 2);
    assert_eq!(usage.stored_bytes, objects.iter().map(|object| object.stored_bytes).sum());
    assert!((8192..1 << 20).contains(&usage.stored_bytes), "{usage:?}");
}

#[test]
fn what_is_not_ours_in_the_directory_does_no_harm() {
    let root = tempfile::tempdir().expect("a directory");
    std::fs::create_dir_all(root.path().join("cache/v w")).expect("a directory");
    std::fs::create_dir_all(root.path().join("cache/v/00/sub")).expect("a directory");
    std::fs::write(root.path().join("cache/README"), "?").expect("a file");
    std::fs::write(root.path().join("cache/v/README"), "?").expect("a file");
    let cache = open(root.path()).expect("fit");
    assert!(all(&cache).is_empty());
}

#[test]
fn an_object_in_use_is_not_removed_and_an_idle_one_leaves_nothing() {
    let root = tempfile::tempdir().expect("a directory");
    let cache = open(root.path()).expect("fit");
    let volume = VolumeKey::new("v").expect("valid");
    let object = cache.acquire(&volume, &key("c"), &ObjectSpec::of_size(4096)).expect("space");
    object.write(0, &[1; 4096]).expect("space");
    object.commit().expect("a healthy disk");
    assert!(matches!(cache.remove(&volume, &key("c")), Err(CacheError::Busy { .. })));
    assert!(matches!(cache.relinquish(&volume, &key("c")), Err(CacheError::Busy { .. })));
    drop(object);
    cache.remove(&volume, &key("c")).expect("idle");
    cache.remove(&volume, &key("c")).expect("already gone");
    let usage = cache.usage();
    assert_eq!((usage.objects, usage.stored_bytes, usage.charged_bytes), (0, 0, 0));
    let folder = Place::new(&volume, &key("c")).dir;
    assert_eq!(std::fs::read_dir(root.path().join(folder)).expect("kept").count(), 0);
    assert_eq!(
        cache.acquire(&volume, &key("c"), &ObjectSpec::of_size(4096)).expect("space").present_bytes(),
        0
    );
}

#[test]
fn an_object_in_use_is_the_same_to_everybody_and_has_one_size() {
    let root = tempfile::tempdir().expect("a directory");
    let cache = open(root.path()).expect("fit");
    let volume = VolumeKey::new("v").expect("valid");
    let object = cache.acquire(&volume, &key("c"), &ObjectSpec::of_size(4096)).expect("space");
    assert!(Arc::ptr_eq(
        &object,
        &cache.acquire(&volume, &key("c"), &ObjectSpec::of_size(4096)).expect("the same")
    ));
    let other = cache.acquire(&volume, &key("c"), &ObjectSpec::of_size(4097)).map(|_| ());
    assert!(matches!(other, Err(CacheError::Size { expected: 4097, found: 4096, .. })), "{other:?}");
    let giant = cache.acquire(&volume, &key("g"), &ObjectSpec::of_size(u64::MAX)).map(|_| ());
    assert!(matches!(giant, Err(CacheError::TooLarge { .. })), "{giant:?}");
}

#[test]
fn a_root_that_cannot_serve_is_refused_with_a_hint() {
    let root = tempfile::tempdir().expect("a directory");
    let file = root.path().join("file");
    std::fs::write(&file, "").expect("a file");
    for (bad, step) in [(file.join("below"), "ENOTDIR"), (PathBuf::from("/proc/larder"), "no such place")] {
        let error = open(&bad).map(|_| ()).expect_err(step);
        assert!(error.hint().is_some() && error.to_string().contains(&*bad.to_string_lossy()), "{error}");
    }
}

#[test]
fn leftovers_of_a_crash_are_removed_at_the_start() {
    let root = tempfile::tempdir().expect("a directory");
    drop(open(root.path()).expect("fit"));
    let left = root.path().join("tmp/17");
    let volume = root.path().join("tmp/18");
    std::fs::write(&left, "half").expect("a file");
    std::fs::create_dir(&volume).expect("a folder");
    drop(open(root.path()).expect("fit"));
    assert!(!left.exists() && !volume.exists());
}
