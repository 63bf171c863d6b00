//! Images made by Debian's mkfs.erofs read as the tree they were made from.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use larder_erofs::Image;
use rustix::fs::XattrFlags;

use crate::support::{assert_same, list_host, list_image, tool};

fn make_tree(root: &Path) {
    fs::create_dir_all(root.join("a/b/c")).expect("can make");
    for size in [0_usize, 1, 100, 4095, 4096, 4097, 65536, 200_000] {
        let bytes: Vec<u8> =
            (0..size).map(|n| u8::try_from((n * 7 + n / 251 + size) % 256).unwrap_or(0)).collect();
        fs::write(root.join(format!("a/size-{size}")), bytes).expect("can write");
    }
    fs::write(root.join("a/b/zeros"), vec![0; 150_000]).expect("can write");
    fs::hard_link(root.join("a/size-100"), root.join("a/b/c/link")).expect("can link");
    symlink("../somewhere", root.join("a/link")).expect("can link");
    symlink("y".repeat(4000), root.join("a/long-link")).expect("can link");
    let many = root.join("many");
    fs::create_dir(&many).expect("can make");
    for number in 0..1500 {
        fs::write(many.join(format!("{number:04}-{}", "z".repeat(number % 60))), "x").expect("can write");
    }
    for number in 0..12 {
        let path =
            fs::read_dir(&many).expect("readable").nth(number).expect("many").expect("readable").path();
        let own = number.to_string();
        for (name, value) in [("user.everywhere", "shared value"), ("user.own", own.as_str())] {
            if let Err(error) = rustix::fs::lsetxattr(&path, name, value.as_bytes(), XattrFlags::empty()) {
                eprintln!("SKIPPED: no user xattrs here: {error}");
                break;
            }
        }
    }
    // mkfs.erofs 1.5 keeps whole seconds in compact inodes, and one time for all of them with -T.
}

/// Makes an image of `tree`; `None` when mkfs.erofs is not installed or does not know an option.
fn mkfs(out: &Path, tree: &Path, args: &[OsString]) -> Option<Vec<u8>> {
    let image = out.join("image");
    let _ = fs::remove_file(&image);
    let mut all: Vec<&OsStr> = args.iter().map(OsString::as_os_str).collect();
    all.extend([image.as_os_str(), tree.as_os_str()]);
    let (good, text) = tool("mkfs.erofs", &all)?;
    if !good {
        eprintln!("SKIPPED: mkfs.erofs {args:?}: {text}");
        return None;
    }
    Some(fs::read(image).expect("mkfs made it"))
}

#[test]
fn plain_inline_and_chunked_images_read_as_their_source() {
    let tree = tempfile::tempdir().expect("can make");
    let out = tempfile::tempdir().expect("can make");
    make_tree(tree.path());
    let host = list_host(tree.path());
    let cases: [&[&str]; 7] = [
        &[],
        &["-Enoinline_data"],
        &["-Eforce-inode-extended"],
        &["--chunksize=4096"],
        &["--chunksize=65536"],
        &["--chunksize=4096", "-Eforce-inode-blockmap"],
        &["--chunksize=65536", "-Eforce-chunk-indexes"],
    ];
    for args in cases {
        let owned: Vec<OsString> = args.iter().map(OsString::from).collect();
        let Some(bytes) = mkfs(out.path(), tree.path(), &owned) else { continue };
        let image = Image::open(bytes).unwrap_or_else(|error| panic!("{args:?}: {error}"));
        assert_same(&list_image(&image, &[]).unwrap_or_else(|error| panic!("{args:?}: {error}")), &host);
    }
}

#[test]
fn an_image_with_a_blob_device_reads_as_its_source() {
    let tree = tempfile::tempdir().expect("can make");
    let out = tempfile::tempdir().expect("can make");
    make_tree(tree.path());
    let blob = out.path().join("blob");
    fs::write(&blob, b"").expect("can write");
    let mut device = OsString::from("--blobdev=");
    device.push(&blob);
    let Some(bytes) = mkfs(out.path(), tree.path(), &["--chunksize=65536".into(), device]) else { return };
    let image = Image::open(bytes).expect("opens");
    assert_eq!(image.devices().len(), 1);
    let blob = fs::read(blob).expect("mkfs made it");
    assert_same(&list_image(&image, &[&blob]).expect("readable"), &list_host(tree.path()));
}
