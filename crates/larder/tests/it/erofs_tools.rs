//! `larder erofs ls|cat|stat|fsck|dump|diff`: what they say of images, sound and damaged.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::support::Larder;
use crate::support::files::{ImageFile, golden, golden_image};
use crate::support::program::{Outcome, User};

fn erofs(larder: &Larder, command: &str, image: &[OsString], more: &[&str]) -> Outcome {
    let mut args: Vec<OsString> = vec!["erofs".into(), command.into()];
    args.extend_from_slice(image);
    args.extend(more.iter().map(OsString::from));
    larder.run(args)
}

fn sample(larder: &Larder) -> ImageFile {
    let source = larder.dir("source");
    fs::create_dir(source.join("dir")).expect("a directory");
    fs::write(source.join("dir/file"), vec![b'x'; 100_000]).expect("a file");
    fs::write(source.join("short"), "words\n").expect("a file");
    symlink("dir/file", source.join("link")).expect("a link");
    ImageFile::build(larder, &source, "image")
}

#[test]
fn ls_and_cat_show_what_is_there() {
    let larder = Larder::new(User::Same);
    let image = sample(&larder).arguments();
    assert_eq!(erofs(&larder, "ls", &image, &[]).ok().stdout, b"dir\nlink\nshort\n");
    assert_eq!(erofs(&larder, "ls", &image, &["-R"]).ok().stdout, b"dir\ndir/file\nlink\nshort\n");
    let long = String::from_utf8(erofs(&larder, "ls", &image, &["-l"]).ok().stdout).expect("text");
    assert!(long.contains(" link -> dir/file\n") && long.starts_with("drwx"), "{long}");
    let json = erofs(&larder, "ls", &image, &["--json", "-R"]).json();
    assert_eq!((json[1]["path"].as_str(), json[1]["size_bytes"].as_u64()), (Some("dir/file"), Some(100_000)));
    assert_eq!(erofs(&larder, "cat", &image, &["short", "/link"]).ok().stdout.len(), 6 + 100_000);
    for (more, word) in [(["nothing"], "no such file"), (["dir"], "no regular file")] {
        assert!(erofs(&larder, "cat", &image, &more).failed().contains(word));
    }
}

#[test]
fn stat_and_dump_tell_places_and_features() {
    let larder = Larder::new(User::Same);
    let image = sample(&larder).arguments();
    let stat = erofs(&larder, "stat", &image, &["--json", "dir/file", "link"]).json();
    assert_eq!((&stat[0]["layout"], &stat[1]["target"]), (&"chunks".into(), &"dir/file".into()));
    let superblock = erofs(&larder, "dump", &image, &["--json"]).json();
    assert_eq!((superblock["inodes"].as_u64(), superblock["block_bytes"].as_u64()), (Some(5), Some(4096)));
    assert_eq!(superblock["devices"][0]["tag"].as_str().map(str::len), Some(64), "a digest");
    let extents = erofs(&larder, "dump", &image, &["--json", "-e", "dir/file"]).json();
    let pieces = extents["extents"].as_array().expect("a list");
    assert_eq!(pieces.iter().filter_map(|piece| piece["bytes"].as_u64()).sum::<u64>(), 100_000);
    assert_eq!(pieces[0]["device"], 1);
    let nid = extents["nid"].to_string();
    let text = erofs(&larder, "dump", &image, &["-e", "--nid", &nid]).ok().stdout;
    assert!(String::from_utf8_lossy(&text).contains(" plain "), "{}", String::from_utf8_lossy(&text));
    let statistics = erofs(&larder, "dump", &image, &["--statistics", "--json"]).json();
    assert_eq!((statistics["files"].as_u64(), statistics["symlinks"].as_u64()), (Some(2), Some(1)));
    assert!(erofs(&larder, "dump", &image, &["-e"]).failed().contains("needs an object"));
}

#[test]
fn fsck_finds_nothing_in_any_golden_image_and_names_every_fault_of_a_damaged_one() {
    let larder = Larder::new(User::Same);
    for image in golden() {
        let report = erofs(&larder, "fsck", &[image.clone().into()], &["--json"]).json();
        assert_eq!(
            (&report["sound"], &report["faults"]),
            (&true.into(), &serde_json::json!([])),
            "{image:?}"
        );
    }
    let image = larder.path("damaged.img");
    let mut bytes = fs::read(golden_image("zstd")).expect("readable");
    let magic = [0x28, 0xb5, 0x2f, 0xfd];
    let frames: Vec<usize> = (0..bytes.len() - 4).filter(|&at| bytes[at..at + 4] == magic).take(3).collect();
    frames.iter().for_each(|&at| bytes[at] ^= 0xff);
    bytes[1024 + 64] ^= 1;
    fs::write(&image, bytes).expect("writable");
    let outcome = erofs(&larder, "fsck", &[image.clone().into()], &[]);
    assert_eq!(outcome.code, 1);
    let lines = String::from_utf8(outcome.stdout).expect("text");
    assert_eq!(lines.matches("error: ").count(), 4, "{lines}");
    assert!(lines.contains("error: image: superblock: checksum"), "{lines}");
    assert!(outcome.stderr.contains("4 errors"), "{}", outcome.stderr);
    let quick = erofs(&larder, "fsck", &[image.into()], &["--no-contents"]);
    assert_eq!(String::from_utf8_lossy(&quick.stdout).matches("error: ").count(), 1, "only the checksum");
}

#[test]
fn a_wrong_image_is_refused_with_a_reason() {
    let larder = Larder::new(User::Same);
    let zeros = larder.path("zeros");
    fs::write(&zeros, [0; 8192]).expect("a file");
    let image = sample(&larder);
    for (image, word) in [
        (vec![zeros.into_os_string()], "is not that of EROFS"),
        (vec![larder.path("nothing").into()], "No such file"),
        (vec![larder.dir("directory").into()], "directory"),
        (
            vec![
                image.image.clone().into(),
                "--device".into(),
                "/dev/null".into(),
                "--device".into(),
                "/dev/null".into(),
            ],
            "1 devices, 2 were given",
        ),
        (vec![image.image.clone().into(), "--offset=99999999".into()], "end"),
    ] {
        for command in ["ls", "fsck", "dump"] {
            let said = erofs(&larder, command, &image, &[]).failed();
            assert!(said.contains(word), "{command}: {said}");
        }
    }
}

#[test]
fn an_image_may_begin_anywhere_in_its_file() {
    let larder = Larder::new(User::Same);
    let inside = larder.path("inside");
    let golden = golden_image("lz4");
    fs::write(&inside, [vec![7; 12_288], fs::read(&golden).expect("readable")].concat()).expect("a file");
    let shifted = erofs(&larder, "ls", &[inside.into(), "--offset=12288".into()], &["-lR"]).ok();
    assert_eq!(shifted.stdout, erofs(&larder, "ls", &[golden.into()], &["-lR"]).ok().stdout);
}

fn change(source: &Path) {
    fs::write(source.join("short"), "other\n").expect("a file");
    fs::remove_file(source.join("link")).expect("it is there");
    fs::write(source.join("added"), "").expect("a file");
}

#[test]
fn diff_tells_what_was_added_removed_and_changed() {
    let larder = Larder::new(User::Same);
    let first = sample(&larder);
    let source = larder.path("source");
    change(&source);
    let second = ImageFile::build(&larder, &source, "second");
    let diff = |one: &ImageFile, two: &ImageFile, more: &[&str]| {
        let mut args: Vec<OsString> = vec!["erofs".into(), "diff".into()];
        args.extend([one.image.clone().into(), two.image.clone().into()]);
        args.extend(one.devices.iter().flat_map(|path| ["--first-device".into(), path.into()]));
        args.extend(two.devices.iter().flat_map(|path| ["--second-device".into(), path.into()]));
        args.extend(more.iter().map(OsString::from));
        larder.run(args)
    };
    let same = diff(&first, &first, &[]);
    assert_eq!((same.code, same.stdout.len()), (0, 0), "{}", same.stderr);
    let found = diff(&first, &second, &["--ignore-times"]);
    let text = String::from_utf8(found.stdout).expect("text");
    assert_eq!((found.code, text.as_str()), (1, "+ /added\n- /link\nM /short: contents\n"));
    let json = diff(&second, &first, &["--json", "--ignore-times"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!((&json[0]["change"], &json[1]["change"]), (&"removed".into(), &"added".into()));
}

#[test]
fn the_same_tree_in_different_codecs_does_not_differ() {
    let larder = Larder::new(User::Same);
    let first = golden_image("lz4");
    for image in golden() {
        let args = ["erofs".into(), "diff".into(), first.clone().into_os_string(), image.clone().into()];
        let outcome = larder.run(args);
        let text = String::from_utf8_lossy(&outcome.stdout).into_owned();
        assert_eq!((outcome.code, text.as_str()), (0, ""), "{}: {}", image.display(), outcome.stderr);
    }
}
