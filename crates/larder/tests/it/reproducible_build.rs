//! Show 2: the same tree gives the same bytes with any number of threads, and other programs can read them.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;
use std::process::Command;

use rustix::io::Errno;
use rustix::mount::MountFlags;
use serde_json::Value;

use crate::support::program::{User, argument, run, tool};
use crate::support::{Image, Larder, compare, is_root, skip, tree};

fn build(larder: &Larder, source: &Path, name: &str, options: &[&str]) -> Value {
    let mut args = vec!["build".into(), "--json".into()];
    args.extend(options.iter().map(Into::into));
    args.extend([argument("dir:", source), argument("oci:", &larder.path(name))]);
    larder.run(args).json()
}

#[test]
fn p6_any_number_of_threads_gives_the_same_digests() {
    let larder = Larder::new(User::Same);
    let source = larder.dir("source");
    tree::plain(&source);
    if is_root() {
        let more = source.join("nasty");
        std::fs::create_dir(&more).expect("a directory");
        tree::nasty(&more);
    }
    let one = build(&larder, &source, "one", &["--jobs", "1"]);
    let two = build(&larder, &source, "two", &["--jobs", "2"]);
    let seven = build(&larder, &source, "seven", &["--jobs", "7"]);
    assert_eq!(one["manifest"], two["manifest"]);
    assert_eq!(one["manifest"], seven["manifest"]);
    for name in ["two", "seven"] {
        let same = run({
            let mut diff = Command::new("diff");
            diff.arg("-r").arg(larder.path("one")).arg(larder.path(name));
            diff
        });
        same.ok();
    }
}

#[test]
fn p6_what_a_killed_build_has_left_in_the_tree_is_no_part_of_the_next_image() {
    let larder = Larder::new(User::Same);
    let source = larder.dir("source");
    tree::plain(&source);
    let build = |name: &str| {
        let mut command =
            larder.command(["build", "--json", "--timestamp", "0", "dir:.", &format!("oci:{name}")]);
        let built = run({
            command.current_dir(&source);
            command
        });
        let manifest = built.json()["manifest"].clone();
        std::fs::remove_dir_all(source.join(name)).expect("it was built");
        manifest
    };
    let clean = build("layout");
    let left = source.join(".larder-build-x1y2z3");
    std::fs::create_dir(&left).expect("a directory");
    std::fs::write(left.join("data"), "half a blob").expect("space");
    assert_eq!(build("layout"), clean);
    assert_eq!(build("elsewhere"), clean);
}

#[test]
fn p6_a_timestamp_makes_later_times_that_one() {
    let larder = Larder::new(User::Same);
    let source = larder.dir("source");
    std::fs::write(source.join("new"), "x").expect("a file");
    let by_option = build(&larder, &source, "one", &["--timestamp", "1000000000"]);
    let mut command =
        larder.command(["build".as_ref(), "--json".as_ref(), argument("dir:", &source).as_os_str()]);
    command.arg(argument("oci:", &larder.path("two"))).env("SOURCE_DATE_EPOCH", "1000000000");
    let by_variable = run(command).json();
    assert_eq!(by_option["manifest"], by_variable["manifest"]);
    let listed = larder
        .run(["ls".as_ref(), "--json".as_ref(), argument("oci:", &larder.path("one")).as_os_str()])
        .json();
    assert_eq!(listed[0]["mtime_seconds"], 1_000_000_000);
}

#[test]
fn fsck_erofs_accepts_the_metadata_image() {
    let Some(fsck) = tool("fsck.erofs") else {
        return skip("fsck_erofs_accepts_the_metadata_image", "there is no fsck.erofs (package erofs-utils)");
    };
    let larder = Larder::new(User::Same);
    let source = larder.dir("source");
    tree::richest(&source);
    build(&larder, &source, "layout", &["--compression", "none"]);
    let image = Image {
        dir: larder.path("layout"),
        registry: larder_testkit::Registry::layout_from_dir(larder.path("layout")),
    };
    let mut command = Command::new(fsck);
    for device in image.devices() {
        command.arg(argument("--device=", &image.blob(&device)));
    }
    // Without a directory to extract to: every byte of every file is looked for.
    command.arg("--extract").arg(image.blob(&image.metadata()));
    run(command).ok();
}

#[test]
fn the_kernel_mounts_the_metadata_image_with_its_blobs_as_devices() {
    let test = "the_kernel_mounts_the_metadata_image_with_its_blobs_as_devices";
    if !is_root() {
        return skip(test, "mounting needs root");
    }
    let larder = Larder::new(User::Same);
    let source = larder.dir("source");
    tree::nasty(&source);
    build(&larder, &source, "layout", &["--compression", "none"]);
    let dir = larder.path("layout");
    let image = Image { registry: larder_testkit::Registry::layout_from_dir(&dir), dir };
    let target = larder.dir("mnt");
    let devices: Vec<_> =
        image.devices().iter().map(|digest| argument("device=", &image.blob(digest))).collect();
    let options = CString::new(devices.join(OsStr::new(",")).into_vec()).expect("a plain path");
    let metadata = image.blob(&image.metadata());
    // mount(8) would put a loop device below, to which the kernel gives no plain files as further devices.
    match rustix::mount::mount(&metadata, &target, "erofs", MountFlags::RDONLY, options.as_c_str()) {
        Err(Errno::NODEV | Errno::NOTBLK) => {
            return skip(test, "this kernel's EROFS mounts no files (Linux 6.12 does)");
        }
        mounted => mounted.expect("the kernel accepts the image"),
    }
    compare::assert_same(&source, &target);
}
