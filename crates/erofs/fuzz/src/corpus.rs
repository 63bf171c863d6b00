//! A tree that gives every way of storing files something to do.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType as HostType, Mode, Timespec, Timestamps, XattrFlags};

/// Numbers that repeat nowhere, and always come the same.
pub fn numbers(seed: u64) -> impl Iterator<Item = u64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    })
}

/// Bytes that no codec makes shorter.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    numbers(seed).flat_map(u64::to_le_bytes).take(len).collect()
}

/// Words: every codec makes a third or less of them.
fn text(seed: u64, len: usize) -> Vec<u8> {
    const WORDS: [&str; 16] = [
        "superblock ",
        "inode ",
        "dirent ",
        "xattr ",
        "extent ",
        "chunk ",
        "pcluster ",
        "lcluster ",
        "fragment ",
        "metabox ",
        "device ",
        "slot\n",
        "the ",
        "of ",
        "lies ",
        "in ",
    ];
    let word = |number: u64| WORDS[usize::try_from(number % 16).expect("small")].bytes();
    let numbered = numbers(seed).enumerate().flat_map(|(place, number)| {
        let mut bytes: Vec<u8> = word(number >> 20).collect();
        if place % 9 == 0 {
            bytes.extend((number % 100_000).to_string().bytes());
        }
        bytes
    });
    numbered.take(len).collect()
}

/// Makes the tree. Times are whole seconds, which every form of inode can hold.
pub fn make(root: &Path) {
    let write = |name: &str, bytes: &[u8]| fs::write(root.join(name), bytes).expect("can write");
    for size in [0, 1, 100, 4095, 4096, 4097, 65_536, 200_000, 1_300_000] {
        write(&format!("text-{size}"), &text(size as u64 + 7, size));
    }
    for size in [3000, 5000, 70_000, 300_000] {
        write(&format!("noise-{size}"), &noise(size as u64, size));
    }
    write("zeros", &vec![0; 500_000]);
    let long = text(1_300_007, 1_300_000);
    write("shifted", &[b"a beginning of its own".as_slice(), &long[..700_000]].concat());
    write("copy", &long[200_000..900_000]);
    write("twin", &long);
    let mixed: Vec<u8> = (0..24_u64)
        .flat_map(|part| match part % 4 {
            0 => noise(part, 9000 + usize::try_from(part).expect("small") * 500),
            3 => vec![0; 20_000],
            _ => text(part, 15_000),
        })
        .collect();
    write("mixed", &mixed);
    // The same bytes, cut alike, at other places in their blocks.
    let part = noise(77, 66_000);
    for (name, before) in [("rotated", 10_000), ("rotated-more", 10_100)] {
        write(name, &[&vec![b'a'; before], &part[..]].concat());
    }
    fs::File::create(root.join("hole")).and_then(|file| file.set_len(1_000_000)).expect("can make");

    fs::create_dir_all(root.join("deep/a/b/c")).expect("can make");
    fs::hard_link(root.join("text-100"), root.join("deep/a/link")).expect("can link");
    symlink("../somewhere", root.join("deep/short-link")).expect("can link");
    symlink("y".repeat(4000), root.join("deep/long-link")).expect("can link");
    fs::create_dir(root.join("empty")).expect("can make");
    fs::create_dir(root.join("many")).expect("can make");
    for number in 0..400_u64 {
        let name = format!("many/{number:03}-{}", "z".repeat(usize::try_from(number % 50).expect("small")));
        write(&name, &text(number % 150, usize::try_from(number * 37 % 6000).expect("small")));
    }
    fs::set_permissions(root.join("text-1"), fs::Permissions::from_mode(0o4750)).expect("can chmod");
    let fifo = root.join("fifo");
    rustix::fs::mknodat(CWD, &fifo, HostType::Fifo, Mode::from_raw_mode(0o640), 0).expect("can make");
    attributes(root);
    owners(root);
    times(root);
}

fn attributes(root: &Path) {
    let mut names = vec![("user.own", "text-100", "here only"), ("user.empty", "text-4096", "")];
    for path in ["text-1", "text-100", "text-4096", "many", "noise-5000", "deep"] {
        names.push(("user.shared", path, "the same value in many places, which is worth sharing"));
        names.push(("user.larder.test.one", path, path));
        names.push(("user.larder.test.two", path, "two"));
    }
    // A list longer than most, and a value.
    let many: Vec<String> = (0..50).map(|number| format!("user.{number:02}-{}", "n".repeat(20))).collect();
    let long = "v".repeat(1500);
    names.extend(many.iter().map(|name| (name.as_str(), "text-65536", "")));
    names.push(("user.long", "text-65536", &long));
    for (name, path, value) in names {
        let path = root.join(path);
        if let Err(error) = rustix::fs::lsetxattr(path, name, value.as_bytes(), XattrFlags::empty()) {
            eprintln!("SKIPPED: {name} cannot be set here: {error}");
            return;
        }
    }
}

fn owners(root: &Path) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: devices, owners and trusted xattrs need root");
        return;
    }
    chown(root.join("text-4096"), Some(70_000), Some(u32::MAX - 1)).expect("root may");
    let null = rustix::fs::makedev(1, 3);
    let made = rustix::fs::mknodat(
        CWD,
        root.join("null"),
        HostType::CharacterDevice,
        Mode::from_raw_mode(0o600),
        null,
    );
    if let Err(error) = made {
        eprintln!("SKIPPED: no device nodes here: {error}");
    }
    let opaque = "trusted.overlay.opaque";
    rustix::fs::lsetxattr(root.join("deep"), opaque, b"y", XattrFlags::empty()).expect("root may");
}

fn times(root: &Path) {
    let set = |path: &Path, seconds: i64| {
        let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("can set times");
    };
    let mut stack = vec![root.to_path_buf()];
    let mut seconds = 1_700_000_000;
    while let Some(path) = stack.pop() {
        if fs::symlink_metadata(&path).expect("exists").is_dir() {
            stack.extend(fs::read_dir(&path).expect("readable").map(|entry| entry.expect("readable").path()));
        }
        seconds += 1;
        set(&path, seconds);
    }
}

/// Makes a small tree for golden images: all kinds of contents in a few hundred bytes to a few blocks.
pub fn make_small(root: &Path) {
    for (name, bytes) in small_files() {
        let path = root.join(name);
        fs::create_dir_all(path.parent().expect("below the root")).expect("can make");
        fs::write(path, bytes).expect("can write");
    }
    symlink("a/text", root.join("link")).expect("can link");
    for path in ["a/text", "many/07", "a"] {
        for (name, value) in [("user.larder.one", "shared by all of them"), ("user.own", path)] {
            if let Err(error) =
                rustix::fs::lsetxattr(root.join(path), name, value.as_bytes(), XattrFlags::empty())
            {
                eprintln!("SKIPPED: {name} cannot be set here: {error}");
            }
        }
    }
}

/// The files of the small tree.
pub fn small_files() -> Vec<(String, Vec<u8>)> {
    let lines: Vec<u8> = (0..6000).flat_map(|n| format!("line {} of many\n", n % 50).into_bytes()).collect();
    let mut files = vec![
        ("a/text".to_owned(), text(1, 9000)),
        ("a/lines".to_owned(), lines.clone()),
        ("a/shifted".to_owned(), [b"something else first\n".as_slice(), &lines[..50_000]].concat()),
        ("a/noise".to_owned(), noise(2, 3000)),
        ("a/zeros".to_owned(), vec![0; 40_000]),
        ("a/mixed".to_owned(), [text(3, 5000), noise(4, 2500), text(5, 3000)].concat()),
        ("one".to_owned(), b"1".to_vec()),
        ("none".to_owned(), Vec::new()),
    ];
    files.extend((0..20).map(|number| (format!("many/{number:02}"), text(number % 7 + 1, 150))));
    files
}
