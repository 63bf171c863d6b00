//! `larder erofs extract`: the tree comes back whole, and nothing gets out of the target.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use crate::support::compare::assert_same;
use crate::support::files::{self, ImageFile, KernelMount, golden, golden_image};
use crate::support::program::User;
use crate::support::{self, Larder, is_root, skip, tree};

fn extract(larder: &Larder, image: &[OsString], more: &[&str], to: &Path) -> support::program::Outcome {
    let mut args: Vec<OsString> = vec!["erofs".into(), "extract".into()];
    args.extend(more.iter().map(OsString::from));
    args.extend_from_slice(image);
    args.push(to.into());
    larder.run(args)
}

#[test]
fn an_extracted_image_is_the_tree_that_was_built() {
    let larder = Larder::new(User::Same);
    let source = larder.dir("source");
    tree::richest(&source);
    let image = ImageFile::build(&larder, &source, "image");
    for jobs in ["1", "3"] {
        let out = larder.path(&format!("out-{jobs}"));
        extract(&larder, &image.arguments(), &["-j", jobs], &out).ok();
        let compared = assert_same(&source, &out);
        assert!(compared > 20, "{compared}");
    }
}

#[test]
fn every_way_of_storing_files_is_extracted_as_the_kernel_shows_it() {
    let larder = Larder::new(User::Same);
    let at = larder.dir("kernel");
    for image in golden() {
        let name = image.file_stem().expect("a name").to_owned();
        let out = larder.path(&name.to_string_lossy());
        extract(&larder, &[image.clone().into()], &[], &out).ok();
        if !files::kernel_shows_all(&image) {
            continue;
        }
        // The kernel refuses files on some file systems: give it a copy of its own.
        let copy = larder.path("copy.img");
        fs::copy(&image, &copy).expect("a copy");
        match KernelMount::new(&copy, &[], &at) {
            Ok(_mounted) => {
                let compared = assert_same(&at, &out);
                assert!(compared > 20, "{}: {compared}", image.display());
            }
            Err(why) => skip("every_way_of_storing_files_is_extracted_as_the_kernel_shows_it", &why),
        }
    }
}

#[test]
fn holes_stay_holes() {
    let larder = Larder::new(User::Same);
    let source = larder.dir("source");
    let file = fs::File::create(source.join("sparse")).expect("a file");
    file.set_len(64 << 20).expect("can grow");
    std::os::unix::fs::FileExt::write_all_at(&file, b"end", (64 << 20) - 3).expect("can write");
    let image = ImageFile::build(&larder, &source, "image");
    let out = larder.path("out");
    extract(&larder, &image.arguments(), &[], &out).ok();
    let stat = fs::metadata(out.join("sparse")).expect("extracted");
    assert_eq!(stat.len(), 64 << 20);
    assert!(stat.blocks() * 512 < 1 << 20, "{} bytes on disk", stat.blocks() * 512);
}

#[test]
fn what_exists_is_left_alone_unless_it_is_to_be_replaced() {
    let larder = Larder::new(User::Same);
    let source = larder.dir("source");
    fs::create_dir(source.join("dir")).expect("a directory");
    fs::write(source.join("dir/new"), "new").expect("a file");
    fs::write(source.join("file"), "from the image").expect("a file");
    let image = ImageFile::build(&larder, &source, "image");
    let out = larder.dir("out");
    fs::write(out.join("file"), "mine").expect("a file");
    let said = extract(&larder, &image.arguments(), &[], &out).failed();
    assert!(said.contains("file: cannot be made: File exists"), "{said}");
    assert_eq!(fs::read(out.join("file")).expect("still there"), b"mine");
    assert_eq!(fs::read(out.join("dir/new")).expect("the rest was extracted"), b"new");
    extract(&larder, &image.arguments(), &["--overwrite"], &out).ok();
    assert_same(&source, &out);
}

/// An ACL as the kernel takes it: version 2, then tag, permissions and id of each entry.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let entry = |&(tag, permissions, id): &(u16, u16, u32)| {
        [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    [2_u32.to_le_bytes().to_vec(), entries.iter().flat_map(entry).collect()].concat()
}

#[test]
fn what_directories_pass_on_does_not_stay_on_what_is_extracted_into_them() {
    let test = "what_directories_pass_on_does_not_stay_on_what_is_extracted_into_them";
    if !is_root() {
        skip(test, "needs root to give files to others");
        return;
    }
    let larder = Larder::new(User::Same);
    let source = larder.dir("source");
    for dir in ["grouped/new", "listed/new"] {
        fs::create_dir_all(source.join(dir)).expect("directories");
        for dir in [source.join(dir), source.join(dir).join("..")] {
            fs::write(dir.join("file"), "contents").expect("a file");
            fs::set_permissions(dir.join("file"), fs::Permissions::from_mode(0o664)).expect("ours");
            rustix::fs::mknodat(
                rustix::fs::CWD,
                dir.join("fifo"),
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::from_raw_mode(0o620),
                0,
            )
            .expect("a FIFO");
            symlink("file", dir.join("link")).expect("a link");
        }
    }
    let image = ImageFile::build(&larder, &source, "image");
    // The owner, user 1234, the group, the mask, others.
    let all = u32::MAX;
    let passed_on = acl(&[(1, 7, all), (2, 6, 1234), (4, 5, all), (16, 7, all), (32, 4, all)]);
    let prepare = |dir: &Path, name: &str| {
        if name == "grouped" {
            std::os::unix::fs::chown(dir, Some(1234), Some(4321)).expect("root may");
            fs::set_permissions(dir, fs::Permissions::from_mode(0o2755)).expect("ours");
            return true;
        }
        ["system.posix_acl_default", "system.posix_acl_access"].into_iter().all(|name| {
            let set = rustix::fs::setxattr(dir, name, &passed_on, rustix::fs::XattrFlags::empty());
            set.inspect_err(|errno| skip(test, &format!("no ACLs here: {errno}"))).is_ok()
        })
    };
    let out = larder.dir("out");
    let mut prepared = Vec::new();
    for name in ["grouped", "listed"] {
        fs::create_dir(out.join(name)).expect("a directory");
        if prepare(&out.join(name), name) {
            prepared.push(name);
        }
    }
    assert!(prepared.contains(&"grouped"));
    extract(&larder, &image.arguments(), &["--overwrite"], &out).ok();
    assert_same(&source, &out);
    // A target that is not the image's root keeps what it has, and passes it on to nothing.
    for name in prepared {
        let target = larder.dir(&format!("target-{name}"));
        assert!(prepare(&target, name), "{name}: as before");
        let before = fs::metadata(&target).expect("there").mode();
        extract(&larder, &image.arguments(), &[], &target).ok();
        for below in ["grouped", "listed"] {
            assert_same(&source.join(below), &target.join(below));
        }
        assert_eq!(fs::metadata(&target).expect("there").mode(), before, "{name}");
    }
}

#[test]
fn a_link_in_the_way_is_never_followed() {
    let larder = Larder::new(User::Same);
    let source = larder.dir("source");
    fs::create_dir(source.join("dir")).expect("a directory");
    fs::write(source.join("dir/inner"), "from the image").expect("a file");
    fs::write(source.join("file"), "from the image").expect("a file");
    let image = ImageFile::build(&larder, &source, "image");
    let outside = larder.dir("outside");
    fs::write(outside.join("file"), "mine").expect("a file");
    for overwrite in [false, true] {
        let out = larder.dir(&format!("out-{overwrite}"));
        symlink(&outside, out.join("dir")).expect("a link");
        symlink(outside.join("file"), out.join("file")).expect("a link");
        let more: &[&str] = if overwrite { &["--overwrite"] } else { &[] };
        let outcome = extract(&larder, &image.arguments(), more, &out);
        assert_eq!(outcome.code, i32::from(!overwrite), "{}", outcome.stderr);
        assert_eq!(fs::read(outside.join("file")).expect("still there"), b"mine");
        assert!(!outside.join("inner").exists());
        if overwrite {
            assert_same(&source, &out);
        }
    }
}

/// Writes `to` over the only place of `from`, and switches the checksum off.
fn patch(image: &Path, from: &[u8], to: &[u8]) {
    let mut bytes = fs::read(image).expect("readable");
    let places: Vec<usize> =
        (0..bytes.len() - from.len()).filter(|&at| bytes[at..].starts_with(from)).collect();
    let [at] = places[..] else { panic!("{} places", places.len()) };
    bytes[at..at + to.len()].copy_from_slice(to);
    bytes[1024 + 8] &= !1;
    fs::write(image, bytes).expect("writable");
}

#[test]
fn a_name_that_leads_out_is_refused() {
    let larder = Larder::new(User::Same);
    let source = larder.dir("source");
    fs::create_dir(source.join("dir")).expect("a directory");
    fs::write(source.join("dir/harmless-name"), "evil").expect("a file");
    for evil in [b"../../evil-na".as_slice(), b"/tmp/evil-nam"] {
        let image = ImageFile::build(&larder, &source, "image");
        patch(&image.image, b"harmless-name", evil);
        let out = larder.path("out");
        let said = extract(&larder, &image.arguments(), &[], &out).failed();
        assert!(said.contains("slash or NUL"), "{said}");
        assert_eq!(fs::read_dir(out.join("dir")).expect("was made").count(), 0);
        assert!(!larder.path("evil-na").exists() && !Path::new("/tmp/evil-nam").exists());
        fs::remove_dir_all(&out).expect("can be removed");
    }
}

#[test]
fn a_circle_of_directories_ends() {
    let larder = Larder::new(User::Same);
    let source = larder.dir("source");
    fs::create_dir_all(source.join("outer/inner")).expect("directories");
    fs::write(source.join("outer/inner/file"), "x").expect("a file");
    let image = ImageFile::build(&larder, &source, "image");
    let nid = |path: &str| {
        let mut args: Vec<OsString> = vec!["erofs".into(), "stat".into(), "--json".into()];
        args.extend(image.arguments());
        args.push(path.into());
        larder.run(args).json()[0]["nid"].as_u64().expect("a number")
    };
    // The entry of `inner` names its parent from now on: 8 bytes of nid, 2 of offset, then the type.
    let entry = |nid: u64| [&nid.to_le_bytes()[..], &[36, 0, 2]].concat();
    let (outer, inner) = (nid("/outer"), nid("/outer/inner"));
    let before = fs::read(&image.image).expect("readable");
    let places = (0..before.len() - 11).filter(|&at| before[at..at + 8] == inner.to_le_bytes());
    let at = places.into_iter().find(|&at| before[at + 10] == 2 && before[at + 8..at + 10] != [36, 0]);
    let at = at.expect("the entry of inner in outer");
    let offset = [before[at + 8], before[at + 9]];
    let (mut from, mut to) = (entry(inner), entry(outer));
    from[8..10].copy_from_slice(&offset);
    to[8..10].copy_from_slice(&offset);
    let mut bytes = before;
    bytes[at..at + 11].copy_from_slice(&to);
    bytes[1024 + 8] &= !1;
    fs::write(&image.image, bytes).expect("writable");
    let said = extract(&larder, &image.arguments(), &[], &larder.path("out")).failed();
    assert!(said.contains("reached twice"), "{said}");
    let mut args: Vec<OsString> = vec!["erofs".into(), "ls".into(), "-R".into()];
    args.extend(image.arguments());
    assert!(larder.run(args).failed().contains("reached twice"));
}

#[test]
fn p1_a_file_whose_contents_are_damaged_is_not_left_behind() {
    let larder = Larder::new(User::Same);
    let image = larder.path("damaged.img");
    let mut bytes = fs::read(golden_image("zstd")).expect("readable");
    let magic = [0x28, 0xb5, 0x2f, 0xfd];
    let at = (0..bytes.len() - 4).find(|&at| bytes[at..at + 4] == magic).expect("a frame");
    bytes[at] ^= 0xff;
    fs::write(&image, bytes).expect("writable");
    let (damaged, whole) = (larder.path("damaged"), larder.path("whole"));
    let said = extract(&larder, &[image.into()], &[], &damaged).failed();
    extract(&larder, &[golden_image("zstd").into()], &[], &whole).ok();
    let lost: Vec<&str> =
        said.lines().filter_map(|line| line.split_once(": inode ")).map(|row| row.0).collect();
    assert_eq!(lost.len(), 1, "{said}");
    assert!(whole.join(lost[0]).exists() && !damaged.join(lost[0]).exists(), "{said}");
    fs::remove_file(whole.join(lost[0])).expect("it is there");
    let count = |path: &Path| walk(path);
    assert_eq!(count(&damaged), count(&whole));
}

fn walk(path: &Path) -> usize {
    let entries = fs::read_dir(path).expect("readable").map(|entry| entry.expect("readable").path());
    entries.map(|path| if path.is_dir() && !path.is_symlink() { 1 + walk(&path) } else { 1 }).sum()
}

#[test]
fn an_ordinary_user_gets_what_they_may_have() {
    if !is_root() {
        skip("an_ordinary_user_gets_what_they_may_have", "needs root to become another user");
        return;
    }
    let larder = Larder::new(User::Nobody);
    let source = larder.dir("source");
    fs::write(source.join("file"), "x").expect("a file");
    fs::set_permissions(source.join("file"), fs::Permissions::from_mode(0o640)).expect("ours");
    let set = |name: &str| {
        rustix::fs::setxattr(source.join("file"), name, b"v", rustix::fs::XattrFlags::empty())
            .expect("root may");
    };
    set("user.mine");
    set("trusted.not-mine");
    fs::create_dir(source.join("closed")).expect("a directory");
    fs::write(source.join("closed/inner"), "y").expect("a file");
    fs::set_permissions(source.join("closed"), fs::Permissions::from_mode(0o500)).expect("ours");
    let builder = Larder::new(User::Same);
    let built = ImageFile::build(&builder, &source, "image");
    let mut image = Vec::new();
    for (number, path) in built.devices.iter().chain([&built.image]).enumerate() {
        let copy = larder.path(&format!("part-{number}"));
        fs::copy(path, &copy).expect("a copy");
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o644)).expect("ours");
        let prefix = if path == &built.image { "" } else { "--device=" };
        image.push(support::program::argument(prefix, &copy));
    }
    let target = larder.dir("place").join("out");
    let said = extract(&larder, &image, &[], &target).ok().stderr;
    assert!(said.contains("1 extended attributes cannot be had here"), "{said}");
    let stat = fs::metadata(target.join("file")).expect("extracted");
    assert_eq!((stat.uid(), stat.mode() & 0o7777), (65534, 0o640));
    assert_eq!(fs::read(target.join("closed/inner")).expect("extracted"), b"y");
    assert_eq!(fs::metadata(target.join("closed")).expect("made").mode() & 0o777, 0o500);
}
