//! `ls`, `cat` and `run`.

use std::ffi::OsString;
use std::fs;
use std::io::Read as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use rustix::process::Signal;

use crate::support::program::{User, argument};
use crate::support::{self, Image, Larder, is_root, skip, tree};

#[test]
fn cat_prints_exactly_what_the_file_holds() {
    let larder = Larder::new(User::Same);
    let source = larder.dir("source");
    tree::plain(&source);
    symlink("/etc/motd", source.join("absolute")).expect("a link");
    symlink("lib", source.join("also-lib")).expect("a link");
    symlink("circle", source.join("circle")).expect("a link");
    let image = Image::build(&larder, &source, "layout");
    for reference in [argument("oci:", &image.dir), image.reference().into()] {
        for (path, file) in [
            ("/etc/motd", "etc/motd"),
            ("absolute", "etc/motd"),
            ("also-lib/../lib/./noise", "lib/noise"),
            ("lib/motd", "etc/motd"),
            ("/../../lib/text", "lib/text"),
            ("sizes/1048577-noise", "sizes/1048577-noise"),
            ("etc/empty", "etc/empty"),
        ] {
            let shown = larder.run(["cat".into(), reference.clone(), path.into()]).ok().stdout;
            assert!(shown == fs::read(source.join(file)).expect("the source"), "{path}");
        }
    }
    for (path, word) in [
        ("nothing", "no such file"),
        ("circle", "too many links"),
        ("lib", "no regular file"),
        ("etc/motd/x", "no directory"),
    ] {
        let said = larder.run(["cat".into(), argument("oci:", &image.dir), path.into()]).failed();
        assert!(said.contains(word), "{path}: {said}");
    }
    assert_eq!(larder.processes(), Vec::<i32>::new(), "no daemon is needed");
}

#[test]
fn ls_lists_names_as_bytes() {
    let larder = Larder::new(User::Same);
    let source = larder.dir("source");
    fs::write(source.join(OsString::from_vec(b"\xff\xfe".to_vec())), "x").expect("a file");
    fs::write(source.join("plain"), "12345").expect("a file");
    symlink("plain", source.join("link")).expect("a link");
    let image = Image::build(&larder, &source, "layout");
    let layout = argument("oci:", &image.dir);
    let shown = larder.run(["ls".into(), layout.clone()]).ok().stdout;
    assert_eq!(shown, b"link\nplain\n\xff\xfe\n");
    let shown = larder.run(["ls".into(), "-l".into(), layout.clone(), "plain".into()]).ok().stdout;
    let shown = String::from_utf8(shown).expect("text");
    assert!(
        shown.starts_with("-rw-r--r--   1 ") && shown.ends_with("Z plain\n") && shown.contains(" 5 "),
        "{shown}"
    );
    let listed = larder.run(["ls".into(), "--json".into(), layout.clone()]).json();
    assert_eq!(listed[0]["target"], "plain");
    assert_eq!(listed[1]["size_bytes"], 5);
    assert_eq!(listed[2]["name_bytes"], serde_json::json!([255, 254]));
    let said = larder.run(["ls".into(), layout, "/nothing".into()]).failed();
    assert!(said.contains("no such file"), "{said}");
}

/// A root with the host's shell and `cat`, and the libraries that they need.
fn runnable(source: &Path) -> bool {
    for dir in ["bin", "proc", "dev", "sys", "tmp"] {
        fs::create_dir(source.join(dir)).expect("a directory");
    }
    let mut files = Vec::new();
    for name in ["sh", "cat"] {
        let Some(program) = support::program::tool(name) else { return false };
        let mut ldd = support::program::command(User::Same, "ldd");
        ldd.arg(&program);
        let shown = String::from_utf8(support::program::run(ldd).stdout).expect("plain paths");
        files.extend(shown.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from));
        fs::copy(&program, source.join("bin").join(name)).expect("space");
    }
    for file in files {
        let to = source.join(file.strip_prefix("/").expect("absolute"));
        fs::create_dir_all(to.parent().expect("it has one")).expect("a directory");
        fs::copy(&file, to).expect("space");
    }
    true
}

#[test]
fn run_gives_the_commands_output_and_status_and_leaves_nothing_mounted() {
    let test = "run_gives_the_commands_output_and_status_and_leaves_nothing_mounted";
    if !is_root() {
        return skip(test, "a mount namespace needs root");
    }
    let larder = Larder::new(User::Same);
    let source = larder.dir("source");
    if !runnable(&source) {
        return skip(test, "there is no shell to run");
    }
    fs::write(source.join("greeting"), "from inside\n").expect("a file");
    let image = Image::build(&larder, &source, "layout");
    for frontend in support::FRONT_ENDS {
        if let Some(why) = larder.cannot(frontend) {
            skip(&format!("{test} ({frontend})"), &why);
            continue;
        }
        let start = ["run".into(), "--frontend".into(), frontend.into(), OsString::from(image.reference())];
        let run = |command: &[&str]| {
            let command = ["--"].iter().chain(command).map(OsString::from);
            larder.run(start.clone().into_iter().chain(command))
        };
        assert_eq!(run(&["cat", "/greeting"]).ok().stdout, b"from inside\n");
        assert_eq!(run(&["sh", "-c", "exit 7"]).code, 7);
        assert_eq!(run(&["sh", "-c", "kill -9 $$"]).code, 137);
        assert!(run(&["/bin/nothing"]).failed().contains("cannot be run"), "{frontend}");
    }
    assert_eq!(larder.status()["mounts"], serde_json::json!([]));
}

/// Tells `child` to end and returns what it says.
fn end(mut child: Child, signal: Signal) -> Option<i32> {
    support::daemon::kill(i32::try_from(child.id()).expect("a pid"), signal);
    child.wait().expect("it ends").code()
}

fn is_ignored(signal: Signal) -> bool {
    let status = fs::read_to_string("/proc/self/status").expect("proc(5)");
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("proc(5)");
    u64::from_str_radix(mask.trim(), 16).expect("a mask") & (1 << (signal.as_raw() - 1)) != 0
}

#[test]
fn a_run_that_is_told_to_end_ends_its_command_and_leaves_nothing_mounted() {
    let test = "a_run_that_is_told_to_end_ends_its_command_and_leaves_nothing_mounted";
    let larder = Larder::new(User::Same);
    let source = larder.dir("source");
    if !is_root() || !runnable(&source) {
        return skip(test, "a mount namespace needs root, and something to run");
    }
    let image = Image::build(&larder, &source, "layout");
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        if is_ignored(signal) {
            skip(test, "whoever started the tests has them ignore this signal, and so everything they start");
            continue;
        }
        let mut run = larder.command(["run", &image.reference(), "--", "sh", "-c", "echo ready; exec cat"]);
        // Where no terminal sends it anything.
        run.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut child = run.spawn().expect("it starts");
        let _held = child.stdin.take();
        let mut ready = [0; 6];
        child.stdout.take().expect("a pipe").read_exact(&mut ready).expect("the command runs");
        assert_eq!(end(child, signal), Some(code), "as its command");
        assert_eq!(larder.status()["mounts"], serde_json::json!([]));
    }
}

#[test]
fn a_cat_that_is_told_to_end_takes_its_cache_along() {
    let larder = Larder::new(User::Same);
    let (source, temp) = (larder.dir("source"), larder.dir("temp"));
    fs::write(source.join("noise"), tree::noise(1, 4 << 20)).expect("space");
    let image = Image::build(&larder, &source, "layout");
    let mut cat = larder.command(["cat".into(), argument("oci:", &image.dir), "noise".into()]);
    let mut child = cat.env("TMPDIR", &temp).stdout(Stdio::piped()).spawn().expect("it starts");
    // Nobody reads on: it waits in the middle of the file.
    child.stdout.as_mut().expect("a pipe").read_exact(&mut [0; 4096]).expect("it reads");
    assert_eq!(fs::read_dir(&temp).expect("ours").count(), 1);
    assert_eq!(end(child, Signal::TERM), Some(143));
    assert_eq!(fs::read_dir(&temp).expect("ours").count(), 0);
}

#[test]
fn dedup_against_another_image_stores_only_what_is_new() {
    let larder = Larder::new(User::Same);
    let source = larder.dir("source");
    fs::write(source.join("base"), tree::noise(1, 4 << 20)).expect("a file");
    let base = larder.path("base");
    larder.run(["build".into(), argument("dir:", &source), argument("oci:", &base)]).ok();
    fs::write(source.join("more"), tree::noise(2, 1 << 20)).expect("a file");
    let out = larder.path("more");
    let against = ["--dedup-against".into(), argument("oci:", &base)];
    let args = ["build".into(), "--json".into(), argument("dir:", &source), argument("oci:", &out)];
    let report = larder.run(args.into_iter().chain(against)).json();
    assert_eq!(report["devices_shared"], 1);
    assert_eq!(report["dictionary_bytes"], 4 << 20);
    assert!(report["data"]["stored_bytes"].as_u64().expect("a number") < 2 << 20, "{report:#}");
    let image = Image { registry: larder_testkit::Registry::layout_from_dir(&out), dir: out };
    assert_eq!(image.devices().len(), 2);
    for frontend in support::FRONT_ENDS {
        if larder.cannot(frontend).is_none() {
            let target = larder.mount(&image.reference(), frontend, frontend);
            support::compare::assert_same(&source, &target);
        }
    }
}
