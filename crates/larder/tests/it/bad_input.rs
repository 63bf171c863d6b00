//! Bad input gives one clear error and a status that is not zero, and leaves nothing: no mount, no process, no output
//! under its final name.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use larder_testkit::{Fault, Registry, Target, Times};
use rustix::mount::MountFlags;

use crate::support::program::{User, argument};
use crate::support::{self, Image, Larder, is_root, skip, tree};

/// A small image in a layout, and a daemon-less root.
fn image(larder: &Larder) -> Image {
    let source = larder.dir("source");
    fs::write(source.join("noise"), tree::noise(1, 2 << 20)).expect("a file");
    fs::write(source.join("text"), tree::text(2, 200_000)).expect("a file");
    for n in 0..300 {
        fs::write(source.join(format!("small-{n}")), tree::text(n, 3000)).expect("a file");
    }
    Image::build(larder, &source, "layout")
}

/// Mounts what cannot be mounted; insists that nothing is left of it. Returns what was said.
#[track_caller]
fn refused(larder: &Larder, image: OsString, target: &Path, options: &[&str]) -> String {
    let mut args: Vec<OsString> = vec!["mount".into()];
    args.extend(options.iter().map(Into::into));
    args.extend([image, target.into()]);
    let said = larder.run(args).failed();
    assert_eq!(larder.mounted(), Vec::<PathBuf>::new(), "{said}");
    assert_eq!(larder.processes(), Vec::<i32>::new(), "{said}");
    let records = fs::read_dir(larder.root().join("state/mounts")).map_or(0, Iterator::count);
    assert_eq!(records, 0, "{said}");
    said
}

#[track_caller]
fn says(said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
}

#[track_caller]
fn build_refused(larder: &Larder, source: &Path, out: &Path) -> String {
    larder.run(["build".into(), argument("dir:", source), argument("oci:", out)]).failed()
}

#[test]
fn a_source_that_is_missing_or_no_directory_leaves_no_output() {
    let larder = Larder::new(User::Same);
    let out = larder.path("out");
    let said = build_refused(&larder, &larder.path("missing"), &out);
    says(&said, &["missing", "cannot be read", "No such file"]);
    fs::write(larder.path("file"), "x").expect("a file");
    says(&build_refused(&larder, &larder.path("file"), &out), &["is no directory", "hint: "]);
    assert!(!out.exists());
}

#[test]
fn a_source_with_an_unreadable_part_leaves_no_output() {
    let test = "a_source_with_an_unreadable_part_leaves_no_output";
    if !is_root() {
        return skip(test, "only root can become nobody");
    }
    let larder = Larder::new(User::Nobody);
    let source = larder.dir("source");
    fs::write(source.join("secret"), "x").expect("a file");
    fs::set_permissions(source.join("secret"), fs::Permissions::from_mode(0o000)).expect("our own file");
    says(&build_refused(&larder, &source, &larder.path("out")), &["secret", "denied"]);
    assert!(!larder.path("out").exists());
    assert_eq!(leftovers(&larder), Vec::<String>::new());
}

/// What a build may have left beside its destination.
fn leftovers(larder: &Larder) -> Vec<String> {
    let names = fs::read_dir(larder.path("")).expect("our own directory");
    let names = names.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned());
    names
        .filter(|name| !["source", "layout", "root", "mnt", "file", "dir"].contains(&name.as_str()))
        .collect()
}

#[test]
fn a_destination_that_is_something_else_is_left_as_it_is() {
    let larder = Larder::new(User::Same);
    let source = larder.dir("source");
    fs::write(source.join("x"), "x").expect("a file");
    let (file, dir) = (larder.path("file"), larder.dir("dir"));
    fs::write(&file, "precious").expect("a file");
    fs::write(dir.join("precious"), "precious").expect("a file");
    says(&build_refused(&larder, &source, &file), &["file", "hint: "]);
    says(&build_refused(&larder, &source, &dir), &["dir", "hint: "]);
    assert_eq!(fs::read(&file).expect("it is there"), b"precious");
    assert_eq!(fs::read_dir(&dir).expect("it is there").count(), 1);
    assert_eq!(leftovers(&larder), Vec::<String>::new());
}

#[test]
fn wrong_usage_has_status_2() {
    let larder = Larder::new(User::Same);
    for args in [
        &["build", "here", "oci:out"][..],
        &["build", "dir:.", "oci:out", "--chunk-size", "5000"],
        &["build", "dir:.", "oci:out", "--compression", "gzip"],
        &["build", "dir:.", "oci:out", "--jobs", "0"],
        &["mount", "oci:x"],
        &["mount", "oci:x", "y", "--frontend", "nfs"],
        &["umount"],
        &["daemon", "--lazy"],
        &["frobnicate"],
        &["serve", "layout", "--listen", "localhost:5000"],
        // Each would leave the other out.
        &["erofs", "dump", "-S", "image", "/path"],
        &["erofs", "dump", "-S", "--nid", "36", "image"],
        &["erofs", "dump", "-S", "-e", "image"],
    ] {
        assert_eq!(larder.run(args).code, 2, "{args:?}");
    }
    says(&larder.run(["serve", "layout", "--listen", "localhost:5000"]).stderr, &["write IP:PORT"]);
}

#[test]
fn a_command_that_is_left_out_is_answered_with_the_help_whatever_the_environment_has() {
    for args in [&[][..], &["cache"], &["erofs"]] {
        let mut command = support::program::command(User::Same, support::program::binary());
        command.args(args).env("LARDER_ROOT", "/nonexistent");
        let outcome = support::program::run(command);
        assert_eq!((outcome.code, outcome.stdout.len()), (2, 0), "{args:?}");
        says(&outcome.stderr, &["Usage: larder", "Commands:", "Examples:"]);
        assert!(!outcome.stderr.contains("worker,"), "{}", outcome.stderr);
    }
}

#[test]
fn p7_a_value_in_the_environment_that_is_none_is_refused_by_name() {
    let larder = Larder::new(User::Same);
    for (name, value) in [("LARDER_LOG", "larder=loud"), ("LARDER_START_LIMIT", "3m")] {
        let mut command = larder.command(["daemon", "--detach"]);
        command.env(name, value);
        says(&support::program::run(command).failed(), &[&format!("{name}={value}"), "hint: "]);
    }
    assert_eq!(larder.processes(), Vec::<i32>::new());
    for value in ["abc", ""] {
        let mut command = larder.command(["build", "dir:.", "oci:out"]);
        command.env("SOURCE_DATE_EPOCH", value);
        let outcome = support::program::run(command);
        assert_eq!(outcome.code, 2, "{}", outcome.stderr);
        says(&outcome.stderr, &["SOURCE_DATE_EPOCH"]);
    }
}

#[test]
fn what_belongs_to_another_user_is_not_called_missing() {
    let test = "what_belongs_to_another_user_is_not_called_missing";
    if !is_root() {
        return skip(test, "only root can become nobody");
    }
    let larder = Larder::new(User::Same);
    larder.run(["daemon", "--detach"]).ok();
    let as_nobody = |args: &[&str]| {
        let mut command = support::program::command(User::Nobody, support::program::binary());
        command.arg("--root").arg(larder.root()).args(args).current_dir("/");
        support::program::run(command).failed()
    };
    says(&as_nobody(&["cache", "du"]), &["cannot be looked at", "denied", "run this as its owner"]);
    says(&as_nobody(&["status"]), &["a daemon of another user", "denied", "--root DIR"]);
}

#[test]
fn what_is_not_there_is_named_with_what_to_do() {
    let larder = Larder::new(User::Same);
    says(&larder.run(["ls", "oci:missing"]).failed(), &["missing/index.json", "an OCI image layout"]);
    says(&larder.run(["erofs", "ls", "missing"]).failed(), &["missing: cannot be opened", "No such file"]);
    let source = larder.dir("source");
    fs::write(source.join("file"), "x").expect("a file");
    let mut mkfs = support::program::command(User::Same, support::program::binary());
    mkfs.args(["mkfs.erofs", "--quiet"]).arg(larder.path("image")).arg(&source);
    support::program::run(mkfs).ok();
    says(&larder.run(["erofs", "ls", "image", "/missing"]).failed(), &["no such file", "`larder erofs ls`"]);
}

#[test]
fn a_reference_that_is_none_is_refused_by_the_rule() {
    let larder = Larder::new(User::Same);
    for image in
        ["python", "oci:", "localhost:99999/x", "registry.example/UPPER", "registry.example/x@sha256:12"]
    {
        for args in [&["mount", image, "/tmp"][..], &["ls", image]] {
            says(&larder.run(args).failed(), &["reference", "hint: "]);
        }
    }
    assert_eq!(larder.processes(), Vec::<i32>::new());
}

#[test]
fn a_mount_point_that_cannot_be_one_is_refused() {
    let larder = Larder::new(User::Same);
    let image = image(&larder);
    let layout = argument("oci:", &image.dir);
    says(
        &refused(&larder, layout.clone(), &larder.path("missing"), &[]),
        &["missing", "No such file", "hint: "],
    );
    fs::write(larder.path("file"), "x").expect("a file");
    says(&refused(&larder, layout.clone(), &larder.path("file"), &[]), &["is no directory", "hint: "]);
    if larder.cannot("fuse").is_some() {
        return skip("a_mount_point_that_is_busy", "FUSE does not work here");
    }
    let target = larder.mount(image.reference().as_str(), "mnt", "fuse");
    let again = larder.run(["mount".into(), layout, target.clone().into()]).failed();
    says(&again, &["is mounted here already", "hint: "]);
    assert_eq!(larder.mounted(), [target]);
}

#[test]
fn a_mount_in_use_is_not_taken_away_unless_asked() {
    let larder = Larder::new(User::Same);
    let image = image(&larder);
    for frontend in support::FRONT_ENDS {
        if let Some(why) = larder.cannot(frontend) {
            skip(&format!("a_mount_in_use ({frontend})"), &why);
            continue;
        }
        let target = larder.mount(&image.reference(), frontend, frontend);
        let used = fs::File::open(target.join("noise")).expect("it is there");
        let said = larder.run(["umount".as_ref(), target.as_os_str()]).failed();
        says(&said, &["in use", "hint: "]);
        let said = larder.run(["daemon", "--stop"]).failed();
        says(&said, &["in use"]);
        let mut bytes = [0; 4096];
        used.read_exact_at(&mut bytes, 1 << 20).expect("the mount lives on");
        larder.run(["umount".as_ref(), "--lazy".as_ref(), target.as_os_str()]).ok();
        used.read_exact_at(&mut bytes, 1 << 19).expect("who has it open goes on");
        let at = 1 << 19;
        assert!(bytes[..] == tree::noise(1, 2 << 20)[at..at + 4096], "other bytes than the image's");
        drop(used);
    }
}

#[test]
fn p1_a_daemon_that_stops_serves_the_readers_of_what_it_detached_to_the_end() {
    for frontend in support::FRONT_ENDS {
        let larder = Larder::new(User::Same);
        if let Some(why) = larder.cannot(frontend) {
            skip(&format!("p1_a_daemon_that_stops ({frontend})"), &why);
            continue;
        }
        let image = image(&larder);
        let target = larder.mount(&image.reference(), "mnt", frontend);
        let used = fs::File::open(target.join("noise")).expect("it is there");
        larder.run(["daemon", "--stop", "--lazy"]).ok();
        assert_eq!(larder.mounted(), Vec::<PathBuf>::new());
        let mut bytes = [0; 4096];
        let at = 1 << 20;
        match used.read_exact_at(&mut bytes, at) {
            Ok(()) => assert!(
                bytes[..] == tree::noise(1, 2 << 20)[1 << 20..][..4096],
                "other bytes than the image's"
            ),
            Err(error) => assert_eq!(frontend, "fuse", "{error}"),
        }
        drop(used);
        let begun = std::time::Instant::now();
        while !larder.processes().is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(20), "the daemon does not end: {}", larder.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_front_end_without_the_rights_for_it_is_refused() {
    let test = "a_front_end_without_the_rights_for_it_is_refused";
    if !is_root() {
        return skip(test, "only root can become nobody");
    }
    let larder = Larder::new(User::Nobody);
    let layout = larder.path("layout");
    let source = larder.dir("source");
    larder.run(["build".into(), argument("dir:", &source), argument("oci:", &layout)]).ok();
    let target = larder.dir("mnt");
    let said = refused(&larder, argument("oci:", &layout), &target, &["--frontend", "fanotify"]);
    says(&said, &["fanotify", "CAP_SYS_ADMIN", "hint: "]);
}

/// A layout with `change` done to the file of one blob.
fn spoiled(larder: &Larder, image: &Image, name: &str, digest: &str, change: impl Fn(&Path)) -> Image {
    let dir = larder.path(name);
    copy(&image.dir, &dir);
    let registry = Registry::layout_from_dir(&dir);
    let spoiled = Image { dir, registry };
    change(&spoiled.blob(digest));
    Image { registry: Registry::layout_from_dir(&spoiled.dir), ..spoiled }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a new directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("readable");
        let to = to.join(entry.file_name());
        if entry.file_type().expect("known").is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).expect("space");
        }
    }
}

fn truncate(path: &Path) {
    let len = fs::metadata(path).expect("it is there").len();
    fs::File::options().write(true).open(path).and_then(|file| file.set_len(len / 2)).expect("our own file");
}

fn flip(path: &Path) {
    let file = fs::File::options().read(true).write(true).open(path).expect("our own file");
    let at = file.metadata().expect("it is there").len() / 3;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("within the file");
    file.write_all_at(&[byte[0] ^ 4], at).expect("our own file");
}

#[test]
fn p1_damaged_metadata_is_not_mounted() {
    let larder = Larder::new(User::Same);
    let image = image(&larder);
    let target = larder.dir("mnt");
    let digest = image.metadata();
    for (name, change) in [("truncated", truncate as fn(&Path)), ("flipped", flip)] {
        let spoiled = spoiled(&larder, &image, name, &digest, change);
        for reference in [argument("oci:", &spoiled.dir), spoiled.reference().into()] {
            says(&refused(&larder, reference, &target, &[]), &["cannot be mounted", "caused by: "]);
        }
    }
}

#[test]
fn p1_a_damaged_manifest_is_not_mounted() {
    let larder = Larder::new(User::Same);
    let image = image(&larder);
    let target = larder.dir("mnt");
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(image.dir.join("index.json")).expect("it is there")).expect("JSON");
    let digest = index["manifests"][0]["digest"].as_str().expect("a digest").to_owned();
    for (name, change) in [("truncated", truncate as fn(&Path)), ("flipped", flip)] {
        let spoiled = spoiled(&larder, &image, name, &digest, change);
        refused(&larder, argument("oci:", &spoiled.dir), &target, &[]);
        let by_digest = format!("{}@{digest}", spoiled.reference());
        says(&refused(&larder, by_digest.into(), &target, &[]), &["cannot be mounted", "caused by: "]);
    }
    fs::write(image.dir.join("index.json"), b"{ \"manifests\": [").expect("our own file");
    refused(&larder, argument("oci:", &image.dir), &target, &[]);
}

#[test]
fn p1_a_damaged_chunk_index_is_not_mounted() {
    let larder = Larder::new(User::Same);
    let image = image(&larder);
    let target = larder.dir("mnt");
    // The index is the last thing in the blob but for its own frame.
    let spoil = |path: &Path| {
        let file = fs::File::options().write(true).open(path).expect("our own file");
        let at = file.metadata().expect("it is there").len() - 100;
        file.write_all_at(b"spoiled", at).expect("our own file");
    };
    let spoiled = spoiled(&larder, &image, "spoiled", &image.devices()[0], spoil);
    says(&refused(&larder, argument("oci:", &spoiled.dir), &target, &[]), &["index"]);
    says(&refused(&larder, spoiled.reference().into(), &target, &[]), &["index"]);
}

#[test]
fn p1_a_damaged_chunk_is_an_error_where_it_is_read_and_nowhere_else() {
    let larder = Larder::new(User::Same);
    let Some(frontend) = support::FRONT_ENDS.into_iter().find(|name| larder.cannot(name).is_none()) else {
        return skip("p1_a_damaged_chunk_is_an_error_where_it_is_read", "no front end works here");
    };
    let image = image(&larder);
    let spoiled = spoiled(&larder, &image, "spoiled", &image.devices()[0], flip);
    let target = larder.mount(argument("oci:", &spoiled.dir).to_str().expect("plain"), "mnt", frontend);
    let mut failed = Vec::new();
    for entry in fs::read_dir(&target).expect("the metadata is sound") {
        let name = entry.expect("the metadata is sound").file_name();
        let expected = fs::read(larder.path("source").join(&name)).expect("the source");
        match fs::read(target.join(&name)) {
            Ok(found) => assert!(found == expected, "{name:?}: other bytes than the image's"),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(5), "{name:?}: {error}");
                failed.push(name);
            }
        }
    }
    assert!(!failed.is_empty() && failed.len() < 100, "{failed:?}");
    let from_cat = larder.run(["cat".into(), argument("oci:", &spoiled.dir), failed[0].clone()]).failed();
    says(&from_cat, &["chunk", "hint: "]);
}

#[test]
fn a_registry_that_is_not_there_or_refuses_is_named() {
    let larder = Larder::new(User::Same);
    let image = image(&larder);
    let target = larder.dir("mnt");
    for status in [404, 500, 429, 403] {
        image.registry.fail(Fault::Status(status));
        let said = refused(&larder, image.reference().into(), &target, &[]);
        says(&said, &[&status.to_string(), &image.registry.host()]);
        says(&larder.run(["ls", &image.reference()]).failed(), &[&status.to_string()]);
        image.registry.clear_faults();
    }
    image.registry.fail(Fault::RetryAfter { status: 429, value: "86400".to_owned() });
    says(&refused(&larder, image.reference().into(), &target, &[]), &["429"]);
    let reference = image.reference();
    let host = image.registry.host();
    drop(image);
    says(&refused(&larder, reference.clone().into(), &target, &[]), &[&host, "caused by: ", "hint: "]);
    says(&larder.run(["cat", &reference, "/text"]).failed(), &[&host]);
}

#[test]
fn p1_a_registry_that_sends_something_else_mounts_nothing() {
    let larder = Larder::new(User::Same);
    let image = image(&larder);
    let target = larder.dir("mnt");
    let metadata = image.metadata();
    let at_metadata =
        |fault: Fault| image.registry.fail_at(Target::Blob(metadata.clone()), Times::UntilCleared, fault);
    let faults = [
        // With a little progress each time the rest would be asked for, and had in the end.
        Fault::CloseEarly { after: 0 },
        Fault::Hangup,
        Fault::WrongLength { by: -7, announced: true },
        Fault::WrongLength { by: 7, announced: true },
        Fault::WrongLength { by: -7, announced: false },
        Fault::FlipBit { blob: metadata.clone(), offset: 700 },
    ];
    for fault in faults {
        at_metadata(fault.clone());
        eprintln!("{fault:?}");
        let said = refused(&larder, image.reference().into(), &target, &[]);
        says(&said, &["cannot be mounted", "caused by: "]);
        image.registry.clear_faults();
    }
    // Nothing of all that was kept: an honest registry is believed again.
    if larder.cannot("fuse").is_none() {
        let mounted = larder.mount(&image.reference(), "honest", "fuse");
        support::compare::assert_same(&larder.path("source"), &mounted);
    }
}

#[test]
fn a_cache_directory_that_cannot_serve_is_refused() {
    let larder = Larder::new(User::Same);
    let image = image(&larder);
    let target = larder.dir("mnt");
    let mut command = support::program::command(User::Same, support::program::binary());
    command.args(["--root", "/proc/larder", "mount"]).arg(argument("oci:", &image.dir)).arg(&target);
    says(&support::program::run(command).failed(), &["/proc/larder", "cannot be created", "--root DIR"]);
    fs::write(larder.root(), "in the way").expect("a file");
    says(&larder.run(["mount".into(), argument("oci:", &image.dir), target.into()]).failed(), &["root"]);
    assert_eq!(larder.processes(), Vec::<i32>::new());
    fs::remove_file(larder.root()).expect("our own file");
}

#[test]
fn a_root_too_deep_for_a_socket_is_refused() {
    let larder = Larder::new(User::Same);
    let mut command = support::program::command(User::Same, support::program::binary());
    command.arg("--root").arg(larder.path(&"d".repeat(100))).arg("status");
    says(&support::program::run(command).failed(), &["the kernel allows 107", "hint: "]);
}

#[test]
fn fanotify_on_a_file_system_without_its_events_is_refused_and_fuse_serves() {
    let test = "fanotify_on_a_file_system_without_its_events_is_refused";
    if !is_root() {
        return skip(test, "mounting needs root");
    }
    let larder = Larder::new(User::Same);
    let image = image(&larder);
    fs::create_dir(larder.root()).expect("a directory");
    rustix::mount::mount("tmpfs", larder.root(), "tmpfs", MountFlags::empty(), Some(c"mode=0700"))
        .expect("tmpfs");
    let target = larder.dir("mnt");
    if larder.cannot("fanotify").is_none() {
        skip(test, "this kernel has pre-content events on tmpfs");
    } else {
        let mount = ["mount".into(), "--frontend".into(), "fanotify".into(), argument("oci:", &image.dir)];
        let said = larder.run(mount.into_iter().chain([target.clone().into_os_string()])).failed();
        says(&said, &["fanotify", "hint: "]);
    }
    if larder.cannot("fuse").is_none() {
        larder.run(["mount".into(), argument("oci:", &image.dir), target.clone().into()]).ok();
        support::compare::assert_same(&larder.path("source"), &target);
    }
    larder.run(["daemon", "--stop"]);
}

#[test]
fn p3_a_full_disk_is_an_error_until_there_is_space() {
    let test = "p3_a_full_disk_is_an_error_until_there_is_space";
    if !is_root() {
        return skip(test, "mounting needs root");
    }
    let larder = Larder::new(User::Same);
    if let Some(why) = larder.cannot("fuse") {
        return skip(test, &why);
    }
    larder.run(["daemon", "--stop"]);
    let image = image(&larder);
    fs::remove_dir_all(larder.root()).expect("our own directory");
    fs::create_dir(larder.root()).expect("a directory");
    let mount = |options, flags| {
        rustix::mount::mount("tmpfs", larder.root(), "tmpfs", flags, Some(options)).expect("tmpfs");
    };
    mount(c"mode=0700,size=1m", MountFlags::empty());
    let target = larder.mount(&image.reference(), "mnt", "fuse");
    let error = fs::read(target.join("noise")).expect_err("2 MiB do not fit into 1 MiB");
    assert!([5, 28].contains(&error.raw_os_error().unwrap_or_default()), "{error}");
    let status = larder.mount_status(&target);
    assert!(status["last_error"].as_str().is_some_and(|text| text.contains("cache")), "{status:#}");
    rustix::mount::mount_remount(larder.root(), MountFlags::empty(), c"size=64m").expect("more space");
    std::thread::sleep(Duration::from_millis(50));
    assert!(fs::read(target.join("noise")).expect("there is space now") == tree::noise(1, 2 << 20));
    larder.run(["daemon", "--stop"]).ok();
}
