//! Trees with every kind of thing in them.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, lsetxattr, makedev, mknodat, utimensat,
};

/// Bytes that neither repeat nor compress: the same for the same seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; len];
    rng.fill(&mut bytes);
    bytes
}

/// Bytes that compress well.
pub fn text(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let words = ["larder", "cookie", "volume", "hole", "fill", "keeper", "worker", "\n"];
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(words[rng.usize(..words.len())].as_bytes());
        bytes.push(b' ');
    }
    bytes.truncate(len);
    bytes
}

fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn dir(path: PathBuf) -> PathBuf {
    fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    path
}

fn name(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}

/// A small tree that an unprivileged user can make and read: directories, files of several sizes, links.
pub fn plain(root: &Path) {
    let etc = dir(root.join("etc"));
    write(&etc.join("motd"), b"welcome\n");
    write(&etc.join("empty"), b"");
    let lib = dir(root.join("lib"));
    for n in 0..200 {
        write(&lib.join(format!("module-{n}")), &text(n, 700 + 37 * usize::try_from(n).expect("small")));
    }
    write(&lib.join("noise"), &noise(1, 3 << 20));
    write(&lib.join("text"), &text(2, 2 << 20));
    symlink("../etc/motd", lib.join("motd")).expect("a link");
    fs::hard_link(lib.join("text"), root.join("text-again")).expect("a hard link");
    boundaries(root);
}

/// Files just under, on and over each boundary: blocks, chunks, frames.
fn boundaries(root: &Path) {
    let sizes = dir(root.join("sizes"));
    for boundary in [512usize, 4096, 65_536, 131_072, 262_144, 1 << 20] {
        for size in [boundary - 1, boundary, boundary + 1] {
            write(&sizes.join(format!("{size}-noise")), &noise(u64::try_from(size).expect("small"), size));
            write(&sizes.join(format!("{size}-zeros")), &vec![0; size]);
        }
    }
    for size in [0usize, 1, 2, 100] {
        write(&sizes.join(format!("{size}")), &noise(3, size));
    }
}

/// As much as this user can make.
pub fn richest(root: &Path) {
    if super::is_root() { nasty(root) } else { plain(root) }
}

/// Everything that a file system can hold; root only.
pub fn nasty(root: &Path) {
    plain(root);
    names(root);
    sparse(root);
    special(root);
    owners_and_modes(root);
    times(root);
    xattrs(root);
    duplicates(root);
}

fn names(root: &Path) {
    let names = dir(root.join("names"));
    write(&names.join(name(b"\xff\xfe not utf-8 \x80")), b"1");
    write(&names.join(name(b"line\nbreak\ttab \x1b[31m")), b"2");
    write(&names.join(name(&[b'n'; 255])), b"3");
    write(&names.join("ünï-çødé-日本"), b"4");
    write(&names.join(" spaces "), b"5");
    write(&names.join("-dash"), b"6");
    write(&names.join("...dots"), b"7");
    dir(names.join(name(b"dir-\xc3\x28")));
    symlink(name(&[b't'; 4000]), names.join("long-link")).expect("a link");
    symlink(name(b"\xff"), names.join(name(b"\xfe"))).expect("a link");
    symlink("x", names.join("short-link")).expect("a link");
    let mut deep = root.to_owned();
    for level in 0..60 {
        deep = dir(deep.join(format!("level-{level}")));
    }
    write(&deep.join("bottom"), b"deep");
}

fn sparse(root: &Path) {
    let sparse = dir(root.join("sparse"));
    let mut file = File::create(sparse.join("hole-data-hole")).expect("a file");
    file.seek(SeekFrom::Start(1 << 20)).expect("seek");
    file.write_all(&noise(5, 100_000)).expect("write");
    file.set_len(8 << 20).expect("truncate");
    File::create(sparse.join("only-hole")).and_then(|file| file.set_len(5 << 20)).expect("a hole");
    File::create(sparse.join("odd-hole")).and_then(|file| file.set_len(12_345)).expect("a hole");
    let tail = File::create(sparse.join("tail")).expect("a file");
    tail.set_len(3 << 20).expect("truncate");
    tail.write_all_at(b"end", (3 << 20) - 3).expect("write");
    let big = File::create(sparse.join("five-gigabytes")).expect("a file");
    big.set_len(5 << 30).expect("truncate");
    big.write_all_at(b"far out", (4 << 30) + 17).expect("write");
}

fn special(root: &Path) {
    let special = dir(root.join("special"));
    let node = |name: &str, kind, major, minor| {
        mknodat(CWD, special.join(name), kind, Mode::from_raw_mode(0o640), makedev(major, minor))
            .expect("a node");
    };
    node("null", FileType::CharacterDevice, 1, 3);
    node("char-wide", FileType::CharacterDevice, 4095, 0xf_ffff);
    node("block", FileType::BlockDevice, 8, 1);
    node("fifo", FileType::Fifo, 0, 0);
    // The path of a socket is short, that of the tree may not be.
    let here = tempfile::Builder::new().prefix("s").tempdir_in("/tmp").expect("a directory");
    drop(UnixListener::bind(here.path().join("s")).expect("a socket"));
    fs::rename(here.path().join("s"), special.join("socket")).expect("within one file system");
}

fn owners_and_modes(root: &Path) {
    let owned = dir(root.join("owned"));
    for (n, (uid, gid)) in
        [(0, 0), (1000, 100), (65_535, 65_535), (65_536, 65_536), (u32::MAX - 1, u32::MAX - 1)]
            .into_iter()
            .enumerate()
    {
        let path = owned.join(format!("owner-{n}"));
        write(&path, b"x");
        lchown(&path, Some(uid), Some(gid)).expect("root may");
        let link = owned.join(format!("link-{n}"));
        symlink("x", &link).expect("a link");
        lchown(&link, Some(uid), Some(gid)).expect("root may");
    }
    for mode in [0, 0o400, 0o644, 0o4755, 0o2755, 0o1777, 0o7777] {
        let path = owned.join(format!("mode-{mode:o}"));
        write(&path, b"x");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("our own file");
    }
    fs::set_permissions(&owned, fs::Permissions::from_mode(0o3775)).expect("our own directory");
}

fn times(root: &Path) {
    let times = dir(root.join("times"));
    for (name, seconds, nanoseconds) in [
        ("epoch", 0, 0),
        ("before-1970", -1, 999_999_999),
        ("1905", -2_050_000_000, 1),
        ("2038", 2_147_483_648, 123_456_789),
        ("2200", 7_258_118_400, 5),
        ("2400", 13_569_465_600, 0),
    ] {
        let path = times.join(name);
        write(&path, name.as_bytes());
        let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
        let stamps = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, &path, &stamps, AtFlags::SYMLINK_NOFOLLOW).expect("our own file");
    }
}

fn xattrs(root: &Path) {
    let attributed = dir(root.join("xattrs"));
    let set = |path: &Path, name: &str, value: &[u8]| {
        lsetxattr(path, name, value, XattrFlags::empty()).unwrap_or_else(|error| panic!("{name}: {error}"));
    };
    for n in 0..40 {
        let path = attributed.join(format!("shared-{n}"));
        write(&path, b"x");
        set(&path, "user.shared", b"the same everywhere, and long enough to be shared");
        set(&path, "user.own", format!("only {n}").as_bytes());
    }
    let rich = attributed.join("rich");
    write(&rich, b"x");
    set(&rich, "user.empty", b"");
    set(&rich, "user.binary", &[0, 255, 10, 0]);
    set(&rich, "user.long", &[7; 2000]);
    set(&rich, "trusted.larder", b"t");
    set(&rich, "security.larder", b"s");
    set(&rich, "security.capability", &CAPABILITY);
    set(&rich, "system.posix_acl_access", &ACL);
    let with_default = dir(attributed.join("with-default-acl"));
    set(&with_default, "system.posix_acl_default", &ACL);
    set(&with_default, "user.on-dir", b"d");
    let link = attributed.join("link");
    symlink("rich", &link).expect("a link");
    set(&link, "trusted.on-link", b"l");
}

/// cap_net_bind_service=ep in the form of `struct vfs_cap_data`, revision 2 (include/uapi/linux/capability.h).
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// user::rw-, user:1000:r--, group::r--, mask::rw-, other::r-- in the form of linux/posix_acl_xattr.h.
const ACL: [u8; 44] = [
    2, 0, 0, 0, //
    1, 0, 6, 0, 255, 255, 255, 255, //
    2, 0, 4, 0, 232, 3, 0, 0, //
    4, 0, 4, 0, 255, 255, 255, 255, //
    16, 0, 6, 0, 255, 255, 255, 255, //
    32, 0, 4, 0, 255, 255, 255, 255,
];

fn duplicates(root: &Path) {
    let duplicates = dir(root.join("duplicates"));
    let content = noise(9, 300_000);
    for n in 0..5 {
        write(&duplicates.join(format!("copy-{n}")), &content);
    }
    let mut shifted = noise(10, 65_536);
    shifted.extend_from_slice(&content);
    write(&duplicates.join("shifted"), &shifted);
    for n in 0..3 {
        fs::hard_link(duplicates.join("copy-0"), root.join(format!("names/hard-{n}"))).expect("a hard link");
    }
}

/// A directory of so many entries.
pub fn crowd(root: &Path, entries: usize) {
    let crowd = dir(root.join("crowd"));
    for n in 0..entries {
        write(&crowd.join(format!("entry-{n:05}-{}", "x".repeat(n % 60))), b"");
    }
}
