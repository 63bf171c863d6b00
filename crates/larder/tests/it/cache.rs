//! `larder cache`: what lies in the cache, what stays, and whether it is right; with a daemon and without one.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::program::User;
use crate::support::{self, Image, Larder, skip, tree};

const MIB: usize = 1 << 20;

struct Cached {
    larder: Larder,
    frontend: &'static str,
    image: Image,
    target: PathBuf,
    content: Vec<u8>,
}

/// An image of 4 MiB in one file, mounted, read and in the cache for good: `None` where nothing can be mounted.
fn cached(test: &str, options: &[&str]) -> Option<Cached> {
    let larder = Larder::new(User::Same);
    let Some(frontend) = support::FRONT_ENDS.into_iter().find(|name| larder.cannot(name).is_none()) else {
        skip(test, "no front end works here");
        return None;
    };
    let source = larder.dir("source");
    let content = tree::noise(7, 4 * MIB);
    fs::write(source.join("file"), &content).expect("a file");
    let layout = larder.path("layout");
    let mut build = vec!["build".into(), support::program::argument("dir:", &source)];
    build.push(support::program::argument("oci:", &layout));
    build.extend(options.iter().map(Into::into));
    larder.run(build).ok();
    let registry = larder_testkit::Registry::layout_from_dir(&layout);
    let image = Image { dir: layout, registry };
    let target = larder.mount(&image.reference(), "mnt", frontend);
    assert!(fs::read(target.join("file")).expect("it can be read") == content);
    larder.wait_until_complete(2);
    Some(Cached { larder, frontend, image, target, content })
}

impl Cached {
    fn objects(&self, args: &[&str]) -> Vec<Value> {
        let args = ["cache", "ls", "--json"].iter().chain(args);
        lines(&self.larder.run(args).ok().stdout)
    }

    /// The key of the data blob.
    fn data(&self) -> String {
        let objects = self.objects(&[]);
        let largest = objects.iter().max_by_key(|object| object["size_bytes"].as_u64()).expect("some");
        largest["cookie"].as_str().expect("a key").to_owned()
    }

    fn umount(&self) {
        self.larder.run(["umount".as_ref(), self.target.as_os_str()]).ok();
    }

    fn mount_again(&self) {
        let target = self.target.to_str().expect("plain");
        self.larder.run(["mount", "--frontend", self.frontend, &self.image.reference(), target]).ok();
    }

    fn stop(&self) {
        self.larder.run(["daemon", "--stop"]).ok();
    }

    fn file_of(&self, key: &str) -> PathBuf {
        find(&self.larder.root().join("cache/cache"), key).expect("it has a file")
    }
}

fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    fs::read_dir(dir).expect("a directory").find_map(|entry| {
        let path = entry.expect("readable").path();
        if path.is_dir() { find(&path, name) } else { path.ends_with(name).then_some(path) }
    })
}

fn lines(text: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(text).expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// Damages one byte of a file whose owner may have made it read-only.
fn damage(path: &Path, at: u64) {
    let mut byte = [0];
    let file = OpenOptions::new().read(true).write(true).open(path).expect("root, or its owner");
    file.read_exact_at(&mut byte, at).expect("it is there");
    file.write_all_at(&[byte[0] ^ 1], at).expect("it can be written");
}

#[test]
fn objects_are_listed_and_added_up_the_same_with_a_daemon_and_without_one() {
    let Some(cached) = cached("objects_are_listed_and_added_up", &[]) else { return };
    let with = cached.objects(&[]);
    assert_eq!(with.len(), 2, "{with:#?}");
    let data = cached.data();
    assert!(
        with.iter().any(|object| object["cookie"] == data.as_str() && object["complete"] == true),
        "{with:#?}"
    );
    assert_eq!(cached.objects(&["--image", &cached.image.reference()]).len(), 2);
    assert_eq!(cached.objects(&["--volume", "other"]).len(), 0);
    let largest = cached.objects(&["--sort", "size", "--limit", "1"]);
    assert_eq!((largest.len(), largest[0]["cookie"].as_str()), (1, Some(&*data)));
    let unknown = cached.larder.run(["cache", "ls", "--image", "r.example/none:1"]).failed();
    assert!(unknown.contains("knows no image"), "{unknown}");
    let used = |cached: &Cached| cached.larder.run(["cache", "du", "--json"]).json();
    let du = used(&cached);
    assert_eq!(du["images"][0]["image"], cached.image.reference().as_str());
    assert_eq!((&du["images"][0]["objects"], &du["volumes"][0]["objects"]), (&2.into(), &2.into()));
    cached.stop();
    let without = cached.objects(&[]);
    let names = |objects: &[Value]| objects.iter().map(|object| object["cookie"].clone()).collect::<Vec<_>>();
    assert_eq!(names(&with), names(&without));
    let stored: u64 = without.iter().map(|object| object["stored_bytes"].as_u64().expect("bytes")).sum();
    assert!(stored >= 4 * MIB as u64, "{without:#?}");
    assert_eq!(used(&cached)["stored_bytes"], stored);
    let table = String::from_utf8(cached.larder.run(["cache", "ls"]).ok().stdout).expect("text");
    assert_eq!(table.lines().count(), 3, "{table}");
    assert!(table.contains(&data) && table.contains("complete"), "{table}");
}

#[test]
fn what_is_mounted_or_pinned_is_not_pruned_and_pins_persist() {
    let Some(cached) = cached("what_is_mounted_or_pinned_is_not_pruned", &[]) else { return };
    let prune = |args: &[&str]| {
        cached.larder.run(["cache", "prune", "--json"].iter().chain(args)).json()["objects"].clone()
    };
    assert_eq!(prune(&["--all"]), 0, "it is mounted");
    assert_eq!(
        cached.larder.run(["cache", "pin", &cached.image.reference(), "--json"]).json()["cookies"]
            .as_array()
            .map(Vec::len),
        Some(2)
    );
    cached.umount();
    assert_eq!(prune(&["--all"]), 0, "it is pinned");
    cached.stop();
    assert_eq!(prune(&["--all"]), 0, "it is still pinned");
    assert!(cached.objects(&[]).iter().all(|object| object["pinned"] == true));
    let data = cached.data();
    cached.larder.run(["cache", "unpin", &data]).ok();
    assert_eq!(prune(&["--older-than", "7d"]), 0, "it was used just now");
    assert_eq!(prune(&["--to", "1GiB"]), 0, "it takes less");
    assert_eq!(prune(&["--all", "--dry-run"]), 1);
    assert_eq!(cached.objects(&[]).len(), 2, "nothing was removed");
    assert_eq!(prune(&["--to", "0"]), 1, "the other one is pinned");
    assert_eq!(cached.objects(&[]).len(), 1);
    assert_eq!(cached.larder.run(["cache", "prune"]).code, 2, "everything by mistake is not an option");
    let unknown = cached.larder.run(["cache", "pin", "sha256-00"]).failed();
    assert!(unknown.contains("has no object of this key"), "{unknown}");
    let of_a_tree = cached.larder.run(["cache", "pin", "settled-00"]).failed();
    assert!(
        of_a_tree.contains("has no object of this key") && of_a_tree.contains("--volume trees"),
        "{of_a_tree}"
    );
    cached.mount_again();
    assert!(fs::read(cached.target.join("file")).expect("fetched again") == cached.content);
}

#[test]
fn p1_damage_is_found_without_a_daemon_and_given_up() {
    for options in [&["--compression", "none"][..], &["--compression", "zstd"], &["--compression", "zstd:9"]]
    {
        let Some(cached) = cached("p1_damage_is_found_without_a_daemon", options) else { return };
        let data = cached.data();
        cached.stop();
        let verify = |args: &[&str]| {
            let outcome = cached.larder.run(["cache", "verify", "--json"].iter().chain(args));
            let objects = lines(&outcome.stdout);
            let object = objects.into_iter().find(|object| object["cookie"] == data.as_str());
            (outcome.code, object.unwrap_or_else(|| panic!("it was not verified: {}", outcome.stderr)))
        };
        let (code, object) = verify(&[]);
        assert_eq!((code, &object["state"]), (0, &"good".into()), "{options:?}: {object:#}");
        damage(&cached.file_of(&data), 2 * MIB as u64 + 17);
        let (code, object) = verify(&["--no-repair"]);
        assert_eq!((code, &object["state"]), (1, &"damaged".into()), "{options:?}: {object:#}");
        assert_eq!(
            (&object["damaged_bytes"], &object["repaired_bytes"]),
            (&65536.into(), &0.into()),
            "{object:#}"
        );
        let (code, object) = verify(&[&data]);
        assert_eq!((code, &object["repaired_bytes"]), (1, &65536.into()), "{options:?}: {object:#}");
        let (code, object) = verify(&[&cached.image.reference()]);
        assert_eq!((code, &object["state"]), (0, &"good".into()), "{options:?}: {object:#}");
        // What was given up is fetched again, and nothing else.
        cached.image.registry.reset_ledger();
        cached.mount_again();
        assert!(
            fs::read(cached.target.join("file")).expect("it can be read") == cached.content,
            "{options:?}"
        );
        assert!(cached.image.registry.bytes_served() < MIB as u64, "{options:?}");
    }
}

/// A mount outlives a daemon and a keeper that were both killed.
#[test]
fn p1_damage_under_a_mount_that_nobody_looks_after_is_told_and_makes_no_hole() {
    let Some(cached) = cached("p1_damage_under_a_mount_that_nobody_looks_after", &["--compression", "none"])
    else {
        return;
    };
    let data = cached.data();
    cached.stop();
    let path = cached.file_of(&data);
    damage(&path, MIB as u64);
    let before = fs::read(&path).expect("our own");
    let mounted = fs::File::open(&path).expect("it is there");
    let verify = || {
        let outcome = cached.larder.run(["cache", "verify", "--json", &data]);
        (outcome.code, lines(&outcome.stdout).remove(0))
    };
    let (code, object) = verify();
    assert_eq!((code, &object["repaired_bytes"]), (1, &0.into()), "{object:#}");
    assert!(object["error"].as_str().is_some_and(|error| error.contains("unmount the image")), "{object:#}");
    assert!(fs::read(&path).expect("our own") == before, "a hole under a reader");
    drop(mounted);
    let (code, object) = verify();
    assert_eq!((code, &object["repaired_bytes"]), (1, &65536.into()), "{object:#}");
}

#[test]
fn p1_damage_under_a_mount_is_written_anew_in_place() {
    let Some(cached) = cached("p1_damage_under_a_mount_is_written_anew", &["--compression", "none"]) else {
        return;
    };
    let data = cached.data();
    let path = cached.file_of(&data);
    damage(&path, 3 * MIB as u64);
    let outcome = cached.larder.run(["cache", "verify", "--json", &data]);
    let object = &lines(&outcome.stdout)[0];
    assert_eq!(outcome.code, 1, "{object:#}");
    assert_eq!(object["repaired_bytes"], 65536, "{object:#}");
    assert_eq!(cached.larder.run(["cache", "verify"]).ok().code, 0);
    let mut bytes = vec![0; 4 * MIB];
    fs::File::open(&path).expect("it is there").read_exact_at(&mut bytes, 0).expect("it is whole");
    assert!(bytes == cached.content, "the backing file has the image's bytes again");
}

#[test]
fn an_object_of_no_known_image_is_unknown_not_damaged() {
    let Some(cached) = cached("an_object_of_no_known_image_is_unknown", &[]) else { return };
    cached.stop();
    fs::remove_dir_all(cached.larder.root().join("state/images")).expect("our own");
    let outcome = cached.larder.run(["cache", "verify", "--json"]).ok();
    let states: Vec<_> = lines(&outcome.stdout).into_iter().map(|object| object["state"].clone()).collect();
    assert_eq!(states, ["unknown", "unknown"]);
}

#[test]
fn without_a_cache_there_is_one_clear_error() {
    let larder = Larder::new(User::Same);
    for command in ["ls", "du", "verify"] {
        let said = larder.run(["cache", command]).failed();
        assert!(said.contains("there is no cache"), "{said}");
    }
    assert!(!larder.root().exists(), "looking makes nothing");
}
