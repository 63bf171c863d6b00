//! A tree with one of everything goes through the writer and comes back as it was.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use larder_erofs::{DeviceMode, ExtentKind, Image, LogicalAddr};
use larder_erofs_fuzz::corpus::noise;
use rustix::fs::{AtFlags, CWD, FileType as HostType, Mode, Timespec, Timestamps, XattrFlags};

use crate::support::{assert_same, build_dir, is_root, list_host, list_image, options, sparse_file, tool};

const BLOCK: usize = 4096;
const CHUNK: usize = 65536;

fn set_mtime(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("can set times");
}

fn make_zoo(root: &Path) {
    let sizes = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK + 777];
    for size in sizes {
        fs::write(root.join(format!("size-{size}")), noise(size as u64 + 1, size)).expect("can write");
    }
    fs::write(root.join("zeros"), vec![0; 3 * CHUNK + 5]).expect("can write");
    fs::write(root.join("copy"), noise(5 * CHUNK as u64 + 778, 5 * CHUNK + 777)).expect("can write");
    let mut scattered = noise(100, 2 * CHUNK);
    scattered.extend(noise(CHUNK as u64 + 1, CHUNK));
    scattered.extend(noise(101, 10));
    fs::write(root.join("scattered"), scattered).expect("can write");

    let piece = noise(7, 5000);
    sparse_file(&root.join("hole-all"), 10 * CHUNK as u64, &[]);
    sparse_file(&root.join("hole-head"), 1 << 20, &[((1 << 20) - 5000, &piece)]);
    sparse_file(&root.join("hole-tail"), 1 << 20, &[(0, &piece)]);
    sparse_file(&root.join("hole-middle"), 1 << 21, &[(3, &piece), (1 << 20, &piece), (1_500_000, &piece)]);

    fs::hard_link(root.join("size-1"), root.join("link-1")).expect("can link");
    let deep = root.join("deep/a/b/c/d/e/f/g");
    fs::create_dir_all(&deep).expect("can make");
    fs::hard_link(root.join("size-1"), deep.join("link-2")).expect("can link");
    fs::write(root.join(OsStr::from_bytes(&[b'n'; 255])), b"long name").expect("can write");
    for name in [b"\xff\xfe".as_slice(), b"!before-dot", b"-", b".hidden", b"..x", b"a\nb", b"\x01"] {
        fs::write(root.join(OsStr::from_bytes(name)), name).expect("can write");
    }
    symlink("target", root.join("short-link")).expect("can link");
    symlink("x".repeat(4095), root.join("long-link")).expect("can link");
    symlink("x".repeat(3000), root.join("medium-link")).expect("can link");
    fs::create_dir(root.join("empty-dir")).expect("can make");
    let many = root.join("many");
    fs::create_dir(&many).expect("can make");
    for number in 0..1000 {
        fs::write(many.join(format!("entry-{number:05}")), format!("{}", number % 7)).expect("can write");
    }
    fs::set_permissions(root.join("size-1"), fs::Permissions::from_mode(0o4755)).expect("can chmod");
    fs::set_permissions(root.join("empty-dir"), fs::Permissions::from_mode(0o1777)).expect("can chmod");
    let _socket = UnixListener::bind(root.join("socket")).expect("can bind");
    let fifo = root.join("fifo");
    rustix::fs::mknodat(CWD, &fifo, HostType::Fifo, Mode::from_raw_mode(0o640), 0).expect("can make");

    for number in 0..20 {
        let path = many.join(format!("entry-{number:05}"));
        let own = format!("{}", number % 4);
        for (name, value) in [("user.shared", "everywhere"), ("user.own", own.as_str()), ("user.empty", "")] {
            if let Err(error) = rustix::fs::lsetxattr(&path, name, value.as_bytes(), XattrFlags::empty()) {
                eprintln!("SKIPPED: no user xattrs here: {error}");
                break;
            }
        }
    }
    if is_root() {
        make_privileged(root);
    } else {
        eprintln!("SKIPPED: devices, owners and trusted xattrs need root");
    }
    set_mtime(&root.join("size-0"), -1_000_000_000, 999_999_999);
    set_mtime(&root.join("size-4095"), 4_000_000_000, 1);
    set_mtime(&root.join("short-link"), 1_234_567_890, 123_456_789);
    set_mtime(&root.join("empty-dir"), 0, 0);
    set_mtime(root, 1_700_000_000, 5);
}

fn make_privileged(root: &Path) {
    let devices = [
        ("null", HostType::CharacterDevice, 1, 3),
        ("whiteout", HostType::CharacterDevice, 0, 0),
        ("large-minor", HostType::BlockDevice, 259, 0xf_fffe),
    ];
    for (name, kind, major, minor) in devices {
        let device = rustix::fs::makedev(major, minor);
        match rustix::fs::mknodat(CWD, root.join(name), kind, Mode::from_raw_mode(0o600), device) {
            Ok(()) => {}
            Err(error) => eprintln!("SKIPPED: no device nodes here: {error}"),
        }
    }
    chown(root.join("size-4096"), Some(u32::MAX - 1), Some(65536)).expect("root may");
    lchown(root.join("long-link"), Some(65535), Some(70000)).expect("root may");
    let acl: &[u8] = &[
        2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 7, 0, 232, 3, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255,
        16, 0, 7, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255,
    ];
    let capability: &[u8] = &[1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (path, name, value) in [
        ("size-4097", "system.posix_acl_access", acl),
        ("empty-dir", "system.posix_acl_default", acl),
        ("size-65536", "security.capability", capability),
        ("deep", "trusted.overlay.opaque", b"y"),
        ("size-65535", "user.large", &noise(3, 3000)),
    ] {
        match rustix::fs::lsetxattr(root.join(path), name, value, XattrFlags::empty()) {
            Ok(()) => {}
            Err(error) => eprintln!("SKIPPED: {name} cannot be set here: {error}"),
        }
    }
}

#[test]
fn everything_comes_back_as_it_was() {
    let dir = tempfile::tempdir().expect("can make");
    make_zoo(dir.path());
    let built = build_dir(dir.path(), &options(2)).expect("the zoo can be written");
    let image = Image::open(built.metadata.clone()).expect("opens");
    assert_same(&list_image(&image, &[&built.blob]).expect("readable"), &list_host(dir.path()));
    assert_eq!(image.superblock().inodes, built.summary.inodes);
    for (name, holes) in [("zeros", 4 * CHUNK), ("hole-all", 10 * CHUNK), ("hole-head", 15 * CHUNK)] {
        let inode =
            image.inode(image.resolve(name.as_bytes()).expect("sound").expect("present")).expect("sound");
        let first = image.map(&inode, LogicalAddr::new(0)).expect("sound");
        assert_eq!((first.kind, first.len), (ExtentKind::Hole, inode.size.min(holes as u64)), "{name}");
    }
    assert!(built.summary.deduplicated_bytes > 5 * CHUNK as u64, "the copy is found");
    let device = image.devices()[0];
    assert_eq!(
        (device.blocks * BLOCK as u64, device.uniaddr * BLOCK as u64),
        (built.blob.len() as u64, built.metadata.len() as u64)
    );

    // The same as one long device: the metadata with the blob behind it.
    let flat = [built.metadata.as_slice(), &built.blob].concat();
    let image = Image::open_with(flat, DeviceMode::Flat).expect("opens");
    assert_same(&list_image(&image, &[]).expect("readable"), &list_host(dir.path()));
}

#[test]
fn every_block_size_can_be_written_and_read() {
    let dir = tempfile::tempdir().expect("can make");
    make_zoo(dir.path());
    let host = list_host(dir.path());
    for block_bits in 9..=16 {
        let options = larder_erofs::writer::Options { block_bits, ..options(2) };
        let built = build_dir(dir.path(), &options).expect("the zoo can be written");
        let image = Image::open(built.metadata).expect("opens");
        assert_eq!(image.superblock().block_size.bits(), block_bits);
        assert_same(&list_image(&image, &[&built.blob]).expect("readable"), &host);
    }
}

#[test]
fn the_bytes_do_not_depend_on_the_number_of_threads() {
    let dir = tempfile::tempdir().expect("can make");
    make_zoo(dir.path());
    let one = build_dir(dir.path(), &options(1)).expect("can be written");
    for jobs in [2, 4, 9] {
        assert!(build_dir(dir.path(), &options(jobs)).expect("can be written") == one, "{jobs} threads");
    }
}

#[test]
fn fsck_accepts_the_image() {
    let dir = tempfile::tempdir().expect("can make");
    make_zoo(dir.path());
    for block_bits in [12, 9] {
        let options = larder_erofs::writer::Options { block_bits, ..options(2) };
        let built = build_dir(dir.path(), &options).expect("the zoo can be written");
        let out = tempfile::tempdir().expect("can make");
        let (meta, blob) = (out.path().join("meta"), out.path().join("blob"));
        fs::write(&meta, &built.metadata).expect("can write");
        fs::write(&blob, &built.blob).expect("can write");
        let device = [OsStr::new("--device="), blob.as_os_str()].join(OsStr::new(""));
        let args = [OsStr::new("--extract"), &device, meta.as_os_str()];
        let Some((good, text)) = tool("fsck.erofs", &args) else { return };
        if block_bits == 12 {
            assert!(good, "{text}");
        } else {
            eprintln!("fsck.erofs with blocks of 2^{block_bits}: {good}: {text}");
        }
    }
}
