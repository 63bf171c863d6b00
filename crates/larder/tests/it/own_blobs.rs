//! `larder build --own-blob`: every front end shows the same files, though blobs end within a block.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::files::KernelMount;
use crate::support::program::{User, argument, run, tool};
use crate::support::{self, Image, Larder, compare, skip, tree};

/// A tree with large files, none of which is a multiple of a block long but one.
fn large(root: &Path) {
    tree::plain(root);
    for (name, seed, len) in [
        ("model", 1, (3 << 20) + 777),
        ("again", 1, (3 << 20) + 777),
        ("odd", 2, 300_001),
        ("even", 3, 1 << 20),
    ] {
        fs::write(root.join(name), tree::noise(seed, len)).expect("a file");
    }
    fs::copy(tool("sh").expect("a shell"), root.join("sh")).expect("a program");
    let sparse = fs::File::create(root.join("sparse")).expect("a file");
    sparse.set_len(8 << 20).expect("room");
    sparse.write_all_at(b"data", 5 << 20).expect("room");
}

fn build(larder: &Larder, from: &str, source: &Path, name: &str, options: &[&str]) -> Value {
    let mut args = vec!["build".into(), "--json".into(), "--own-blob".into(), "64K".into()];
    args.extend(options.iter().map(Into::into));
    args.extend([argument(from, source), argument("oci:", &larder.path(name))]);
    larder.run(args).json()
}

#[test]
fn p6_large_files_have_the_same_blobs_with_any_number_of_threads_from_a_directory_and_an_archive() {
    let larder = Larder::new(User::Same);
    let source = larder.dir("source");
    large(&source);
    let one = build(&larder, "dir:", &source, "one", &["--jobs", "1"]);
    let two = build(&larder, "dir:", &source, "two", &["--jobs", "2"]);
    assert_eq!(one["manifest"], two["manifest"]);
    let lengths = |report: &Value| {
        let files = report["files"].as_array().expect("a list").clone();
        let mut lengths: Vec<_> =
            files.iter().map(|file| file["decoded_bytes"].as_u64().expect("a number")).collect();
        lengths.sort_unstable();
        lengths
    };
    let found = lengths(&one);
    for len in [(3 << 20) + 777, 300_001] {
        assert_eq!(found.iter().filter(|found| **found == len).count(), 1, "{len}: {found:?}");
    }
    assert!(!found.contains(&(8 << 20)), "a sparse file stays one");
    if tool("tar").is_none() {
        return skip("p6_large_files_have_the_same_blobs (tar)", "there is no tar");
    }
    let archive = larder.path("archive.tar");
    run({
        let mut tar = Command::new("tar");
        tar.args(["--sparse", "-cf"]).arg(&archive).arg("-C").arg(&source).arg(".");
        tar
    })
    .ok();
    let from_tar = build(&larder, "tar:", &archive, "tar", &["--jobs", "1"]);
    assert_eq!(lengths(&from_tar), found);
    assert_eq!(build(&larder, "tar:", &archive, "tar2", &["--jobs", "2"])["manifest"], from_tar["manifest"]);
}

#[test]
fn p1_every_front_end_shows_files_with_blobs_of_their_own_as_they_are() {
    let larder = Larder::new(User::Same);
    let source = larder.dir("source");
    large(&source);
    for compression in ["zstd", "none"] {
        let layout = format!("layout-{compression}");
        build(&larder, "dir:", &source, &layout, &["--compression", compression]);
        let image = Image::opened(&larder.path(&layout));
        for frontend in support::FRONT_ENDS {
            if let Some(why) = larder.cannot(frontend) {
                skip(&format!("files with blobs of their own ({frontend})"), &why);
                continue;
            }
            for pass in ["cold", "warm"] {
                let target =
                    larder.mount(&image.reference(), &format!("{compression}-{frontend}-{pass}"), frontend);
                let model = fs::File::open(target.join("model")).expect("there");
                let mut end = [1; 2000];
                let read = model.read_at(&mut end, (3 << 20) + 700).expect("readable");
                assert!(
                    end[..read] == tree::noise(1, (3 << 20) + 777)[(3 << 20) + 700..],
                    "{frontend}: its end"
                );
                drop(model);
                compare::assert_same(&source, &target);
                let status = Command::new(target.join("sh")).args(["-c", "exit 7"]).status();
                assert_eq!(status.expect("it runs").code(), Some(7), "{frontend}");
                larder.run(["umount".as_ref(), target.as_os_str()]).ok();
            }
        }
        larder.run(["daemon", "--stop"]).ok();
    }
}

#[test]
fn fsck_erofs_and_the_kernel_accept_devices_that_end_within_a_block() {
    let test = "fsck_erofs_and_the_kernel_accept_devices_that_end_within_a_block";
    let larder = Larder::new(User::Same);
    let source = larder.dir("source");
    large(&source);
    build(&larder, "dir:", &source, "layout", &["--compression", "none"]);
    let image = Image::opened(&larder.path("layout"));
    let parts: Vec<_> = image.devices().iter().map(|digest| image.blob(digest)).collect();
    let metadata = image.blob(&image.metadata());
    match tool("fsck.erofs") {
        Some(fsck) => {
            let mut command = Command::new(fsck);
            command.args(parts.iter().map(|part| argument("--device=", part)));
            run({
                command.arg("--extract").arg(&metadata);
                command
            })
            .ok();
        }
        None => skip(test, "there is no fsck.erofs (package erofs-utils)"),
    }
    let target = larder.dir("mnt");
    match KernelMount::new(&metadata, &parts, &target) {
        Ok(_mounted) => drop(compare::assert_same(&source, &target)),
        Err(why) => skip(test, &why),
    }
}
