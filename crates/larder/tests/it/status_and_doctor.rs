//! What `status` and `doctor` say, to people and to programs.

use rustix::process::Signal;

use crate::support::daemon::{kill, pid};
use crate::support::program::User;
use crate::support::{self, Image, Larder, compare, skip, tree};

#[test]
fn without_a_daemon_status_fails_with_a_hint_and_starts_none() {
    let larder = Larder::new(User::Same);
    let said = larder.run(["status"]).failed();
    assert!(said.contains("no daemon answers") && said.contains("hint: "), "{said}");
    assert_eq!(larder.processes(), Vec::<i32>::new());
}

#[test]
fn doctor_says_of_every_front_end_whether_it_works_or_why_not() {
    let larder = Larder::new(User::Same);
    let outcome = larder.run(["doctor", "--json"]);
    let findings: serde_json::Value = serde_json::from_slice(&outcome.stdout).expect("JSON");
    let frontends = findings["frontends"].as_array().expect("a list");
    let mut works = false;
    for (finding, name) in frontends.iter().zip(support::FRONT_ENDS) {
        assert_eq!(finding["frontend"], name);
        works |= finding["works"].as_bool().expect("yes or no");
        assert_eq!(finding["works"].as_bool(), Some(finding["reason"].is_null()), "{finding}");
    }
    assert_eq!(outcome.code, i32::from(!works));
    let table = String::from_utf8(larder.run(["doctor"]).stdout).expect("text");
    assert!(table.contains("FRONT END") && table.contains("kernel "), "{table}");
}

#[test]
fn status_gives_processes_mounts_and_blobs() {
    let larder = Larder::new(User::Same);
    let Some(frontend) = support::FRONT_ENDS.into_iter().find(|name| larder.cannot(name).is_none()) else {
        return skip("status_gives_processes_mounts_and_blobs", "no front end works here");
    };
    let source = larder.dir("source");
    tree::plain(&source);
    let image = Image::build(&larder, &source, "layout");
    let target = larder.mount(&image.reference(), "mnt", frontend);
    let status = larder.status();
    for process in ["keeper", "worker"] {
        let pid = pid(&status, process).expect("a process id");
        assert!(std::path::Path::new(&format!("/proc/{pid}")).exists(), "{process}");
    }
    let mount = larder.mount_status(&target);
    assert_eq!(mount["image"], image.reference());
    assert_eq!(mount["frontend"], frontend);
    assert_eq!(mount["state"], "on_demand");
    assert!(mount["last_error"].is_null());
    let fetched = mount["fetched_bytes"].as_u64().expect("a number");
    let image_bytes = mount["image_bytes"].as_u64().expect("a number");
    assert!(fetched > 0 && fetched < image_bytes / 4, "{fetched} of {image_bytes}");
    assert!(mount["requests"].as_u64().expect("a number") >= 1);
    compare::assert_same(&source, &target);
    let mount = larder.mount_status(&target);
    let all = mount["fetched_bytes"].as_u64().expect("a number");
    assert!(all >= image_bytes - image_bytes / 50, "{all} of {image_bytes}");
    assert_eq!(mount["state"], "complete");
    let status = larder.status();
    let blobs = status["blobs"].as_array().expect("a list");
    assert_eq!(blobs.len(), mount["blobs"].as_array().expect("a list").len());
    for blob in blobs {
        assert_eq!(blob["complete"], true, "{blob:#}");
        assert_eq!(blob["present_bytes"], blob["size_bytes"], "{blob:#}");
    }
    let table = String::from_utf8(larder.run(["status", "--blobs"]).ok().stdout).expect("text");
    for word in ["PATH", "FETCHED MiB", "complete", "BLOB", frontend] {
        assert!(table.contains(word), "{word}: {table}");
    }
}

#[test]
fn one_daemon_serves_every_mount_and_a_stop_leaves_nothing() {
    let larder = Larder::new(User::Same);
    let Some(frontend) = support::FRONT_ENDS.into_iter().find(|name| larder.cannot(name).is_none()) else {
        return skip("one_daemon_serves_every_mount_and_a_stop_leaves_nothing", "no front end works here");
    };
    let source = larder.dir("source");
    tree::plain(&source);
    let image = Image::build(&larder, &source, "layout");
    let targets = ["a", "b", "c"].map(|name| larder.mount(&image.reference(), name, frontend));
    assert_eq!(larder.status()["mounts"].as_array().expect("a list").len(), 3);
    assert_eq!(larder.processes().len(), 2, "a keeper and a worker");
    for target in &targets {
        compare::assert_same(&source, target);
    }
    larder.run(["daemon", "--stop"]).ok();
    assert_eq!(larder.processes(), Vec::<i32>::new());
    assert_eq!(larder.mounted(), Vec::<std::path::PathBuf>::new());
    larder.run(["status"]).failed();
    // The next daemon finds the cache: nothing is fetched but the manifest and what hangs on it.
    image.registry.reset_ledger();
    let target = larder.mount(&image.reference(), "d", frontend);
    compare::assert_same(&source, &target);
    for digest in image.devices().into_iter().chain([image.metadata()]) {
        let ledger = image.registry.ledger();
        // The chunk index lies in the blob; of the data itself nothing is asked again.
        let sent: u64 =
            ledger.served.get(&digest).map_or(0, |ranges| ranges.iter().map(|(from, to)| to - from).sum());
        let len = std::fs::metadata(image.blob(&digest)).expect("it is there").len();
        assert!(sent < len / 10, "{digest}: {sent} of {len} bytes");
    }
}

#[test]
fn a_dead_keeper_is_replaced_and_the_mounts_live_on() {
    let larder = Larder::new(User::Same);
    let Some(frontend) = support::FRONT_ENDS.into_iter().find(|name| larder.cannot(name).is_none()) else {
        return skip("a_dead_keeper_is_replaced_and_the_mounts_live_on", "no front end works here");
    };
    let source = larder.dir("source");
    tree::plain(&source);
    let image = Image::build(&larder, &source, "layout");
    let target = larder.mount(&image.reference(), "mnt", frontend);
    let before = larder.status();
    kill(pid(&before, "keeper").expect("a keeper"), Signal::KILL);
    compare::assert_same(&source.join("etc"), &target.join("etc"));
    let begun = std::time::Instant::now();
    let after = loop {
        let status = larder.status();
        if pid(&status, "keeper").is_some_and(|keeper| Some(keeper) != pid(&before, "keeper")) {
            break status;
        }
        assert!(begun.elapsed().as_secs() < 20, "{status:#}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    };
    assert_eq!(pid(&after, "worker"), pid(&before, "worker"));
    kill(pid(&after, "worker").expect("a worker"), Signal::KILL);
    compare::assert_same(&source, &target);
    larder.run(["daemon", "--stop"]).ok();
    assert_eq!(larder.processes(), Vec::<i32>::new());
}

#[test]
fn a_mount_that_somebody_else_takes_away_is_forgotten() {
    for frontend in support::FRONT_ENDS {
        let larder = Larder::new(User::Same);
        if let Some(why) = larder.cannot(frontend) {
            skip(&format!("a_mount_that_somebody_else_takes_away_is_forgotten ({frontend})"), &why);
            continue;
        }
        let source = larder.dir("source");
        tree::plain(&source);
        let image = Image::build(&larder, &source, "layout");
        let target = larder.mount(&image.reference(), "mnt", frontend);
        let mut umount = match support::is_root() {
            true => support::program::command(User::Same, "umount"),
            false => {
                let mut fusermount = support::program::command(User::Same, "fusermount3");
                fusermount.arg("-u");
                fusermount
            }
        };
        umount.arg(&target);
        support::program::run(umount).ok();
        let begun = std::time::Instant::now();
        while larder.status()["mounts"] != serde_json::json!([]) {
            assert!(begun.elapsed().as_secs() < 30, "{:#}", larder.status());
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        larder
            .run(["mount", "--frontend", frontend, &image.reference(), target.to_str().expect("plain")])
            .ok();
        compare::assert_same(&source, &target);
    }
}

#[test]
fn p8_the_cache_tells_how_full_it_is_and_what_happened_to_it_in_the_groups_of_fscache() {
    let larder = Larder::new(User::Same);
    let Some(frontend) = support::FRONT_ENDS.into_iter().find(|name| larder.cannot(name).is_none()) else {
        return skip("p8_the_cache_tells_how_full_it_is", "no front end works here");
    };
    let source = larder.dir("source");
    tree::plain(&source);
    let image = Image::build(&larder, &source, "layout");
    larder.run(["daemon", "--detach", "--quota", "1GiB", "--bstop", "0"]).ok();
    let target = larder.mount(&image.reference(), "mnt", frontend);
    compare::assert_same(&source, &target);
    let stats = larder.run(["status", "--cache", "--json"]).json();
    assert_eq!(
        (&stats["limits"]["quota_bytes"], &stats["limits"]["bstop"]),
        (&(1u64 << 30).into(), &0.into())
    );
    assert_eq!(stats["objects"], 2);
    let counter = |group: &str, name: &str| {
        let named = |list: &serde_json::Value, wanted: &str| {
            let list = list.as_array().expect("a list");
            list.iter()
                .find(|one| one["name"] == wanted)
                .unwrap_or_else(|| panic!("{wanted}: {stats:#}"))
                .clone()
        };
        named(&named(&stats["groups"], group)["counters"], name)["value"].as_u64().expect("a number")
    };
    assert!(counter("Acquire", "n") >= 2 && counter("Lookups", "n") >= 2);
    assert!(counter("IO", "wrb") > 0 && counter("NoSpace", "nwr") == 0);
    let text = String::from_utf8(larder.run(["status", "--cache"]).ok().stdout).expect("text");
    for group in [
        "Quota     : 1.00 GiB",
        "Blocks    : ",
        "State     : ",
        "Lookups   : n=",
        "Relinqs   : n=",
        "IO        : rd=",
    ] {
        assert!(text.contains(group), "{group}: {text}");
    }
}
