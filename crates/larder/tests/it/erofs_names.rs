//! `fsck.erofs`, `dump.erofs` and `erofsfuse`: the program by the names of erofs-utils, beside the originals.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use larder_erofs::Image;
use rustix::mount::{UnmountFlags, unmount};

use crate::support::compare::assert_same;
use crate::support::files::{ImageFile, KernelMount, golden, golden_image, kernel_shows_all};
use crate::support::program::{Outcome, User, binary, command, run};
use crate::support::{Larder, is_root, skip, tree};

/// The program under another name, in a directory of the test's own.
fn named(larder: &Larder, name: &str) -> PathBuf {
    let path = larder.path(name);
    if !path.exists() {
        std::os::unix::fs::symlink(binary(), &path).expect("a link");
    }
    path
}

fn call<I>(program: &Path, args: I) -> Outcome
where
    I: IntoIterator,
    I::Item: Into<OsString>,
{
    let mut command = command(User::Same, program);
    command.args(args.into_iter().map(Into::into));
    run(command)
}

/// Debian's own tool, if it is of 1.9 or later; older ones print other things.
fn original(test: &str, name: &str) -> Option<PathBuf> {
    let at_hand = std::env::var_os("EROFS_UTILS").map(|dir| PathBuf::from(dir).join(name));
    for program in at_hand.into_iter().chain([PathBuf::from(name)]) {
        let Ok(output) = Command::new(&program).arg("-V").output() else { continue };
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let minor = text.split_once("1.").and_then(|(_, rest)| rest.get(..1)?.parse::<u32>().ok());
        if minor.is_some_and(|minor| minor >= 9) {
            return Some(program);
        }
        skip(test, &format!("{} is too old: {}", program.display(), text.trim()));
        return None;
    }
    skip(test, &format!("no {name} here; install erofs-utils 1.9, or name a folder with one in EROFS_UTILS"));
    None
}

#[test]
fn the_tools_tell_their_version_and_help_and_refuse_unknown_options_by_name() {
    let larder = Larder::new(User::Same);
    for (tool, status) in [("mkfs.erofs", 1), ("fsck.erofs", 1), ("dump.erofs", 234), ("erofsfuse", 1)] {
        for program in [named(&larder, tool), binary().to_owned()] {
            let first = (program == binary()).then_some(tool);
            let with = |args: &[&str]| call(&program, first.iter().chain(args).copied().collect::<Vec<_>>());
            let version = with(&["-V"]).ok().stdout;
            let version = String::from_utf8_lossy(&version).into_owned();
            assert!(version.starts_with(&format!("{tool} (erofs-utils) 1.9")), "{version}");
            let help = with(&["--help"]).ok().stdout;
            assert!(String::from_utf8_lossy(&help).to_lowercase().contains("usage:"), "{tool}");
            for (args, word) in
                [(&["--bogus", "x"][..], "unrecognized option '--bogus'"), (&["-Z", "x"], "'Z'")]
            {
                let outcome = with(args);
                assert_eq!(outcome.code, status, "{tool}");
                assert!(outcome.stderr.contains(word), "{tool}: {}", outcome.stderr);
            }
            assert_ne!(with(&[]).code, 0, "{tool} without an image");
        }
    }
}

#[test]
fn fsck_gives_the_verdicts_of_the_original() {
    let larder = Larder::new(User::Same);
    let ours = named(&larder, "fsck.erofs");
    let theirs = original("fsck_gives_the_verdicts_of_the_original", "fsck.erofs");
    let damaged = larder.path("damaged.img");
    let mut bytes = fs::read(golden_image("lz4")).expect("readable");
    bytes[1024 + 64] ^= 1;
    fs::write(&damaged, bytes).expect("writable");
    let zeros = larder.path("zeros.img");
    fs::write(&zeros, [0; 8192]).expect("writable");
    let cases = golden().into_iter().map(|path| (path, 0)).chain([(damaged, 1), (zeros, 1)]);
    for (image, status) in cases {
        for args in [&["-d3"][..], &["--extract"]] {
            let args: Vec<OsString> = args.iter().map(OsString::from).chain([image.clone().into()]).collect();
            let outcome = call(&ours, args.clone());
            assert_eq!(outcome.code, status, "{}: {}", image.display(), outcome.stderr);
            assert_eq!(outcome.stderr.contains("<E> erofs: "), status == 1, "{}", outcome.stderr);
            if args[0] == "-d3" && status == 0 {
                assert!(String::from_utf8_lossy(&outcome.stdout).contains("<I> erofs: No errors found"));
            }
            // The original says that a checksum is wrong, and ends with status 0.
            if let Some(theirs) = theirs.as_ref().filter(|_| !image.ends_with("damaged.img")) {
                assert_eq!(call(theirs, args).code, status, "{}: the original", image.display());
            }
        }
    }
    let quiet = call(&ours, ["-d0".into(), larder.path("zeros.img").into_os_string()]);
    assert_eq!((quiet.code, quiet.stderr.as_str()), (1, ""));
}

#[test]
fn fsck_extracts_with_the_options_of_the_original() {
    let larder = Larder::new(User::Same);
    let ours = named(&larder, "fsck.erofs");
    let source = larder.dir("source");
    tree::plain(&source);
    let image = ImageFile::build(&larder, &source, "image");
    let with = |more: &[&str]| {
        let mut args: Vec<OsString> = more.iter().map(OsString::from).collect();
        args.extend(image.arguments());
        call(&ours, args)
    };
    let out = larder.path("out");
    let extract = format!("--extract={}", out.display());
    with(&[&extract, "--preserve", "--xattrs"]).ok();
    assert_same(&source, &out);
    assert_eq!(with(&[&extract]).code, 1, "it exists");
    with(&[&extract, "--overwrite", "--xattrs"]).ok();
    assert_same(&source, &out);
    let one = larder.path("one");
    with(&[&format!("--extract={}", one.display()), "--path=/etc/motd"]).ok();
    assert_eq!(fs::read(&one).expect("extracted"), fs::read(source.join("etc/motd")).expect("the source"));
    let mut damaged = fs::read(&image.image).expect("readable");
    let opened = Image::open(damaged.clone()).expect("sound");
    let nid = opened.resolve(b"etc/motd").expect("sound").expect("there");
    damaged[usize::try_from(opened.superblock().inode_space + nid.get() * 32).expect("small") + 5] = 0x70;
    fs::write(&image.image, damaged).expect("writable");
    for (path, code) in [("/etc", 1), ("/sizes", 0), ("/", 1)] {
        let outcome = with(&["--no-sbcrc", &format!("--path={path}")]);
        assert_eq!(outcome.code, code, "{path}: {}", outcome.stderr);
    }
    // What only the whole image is checked for: its number of inodes.
    let root = format!("--nid={}", opened.root().get());
    damaged = fs::read(&image.image).expect("readable");
    damaged[1024 + 16..1024 + 24].copy_from_slice(&99_u64.to_le_bytes());
    fs::write(&image.image, damaged).expect("writable");
    for (from, counts) in [("--path=/", true), (&root, true), ("--path=/sizes", false)] {
        let outcome = with(&["--no-sbcrc", from]);
        assert_eq!(outcome.stderr.contains("99"), counts, "{from}: {}", outcome.stderr);
    }
    for (args, word) in [
        (&["--extract=/"][..], "--force"),
        (&["--overwrite"], "--extract"),
        (&["--xattr-inode-digest"], "--xattr-inode-digest is not supported"),
        (&["--extract="], "empty"),
        (&["--nid=x"], "invalid number"),
    ] {
        let outcome = with(args);
        assert!(outcome.code == 1 && outcome.stderr.contains(word), "{args:?}: {}", outcome.stderr);
    }
}

#[test]
fn dump_prints_what_the_original_prints() {
    let test = "dump_prints_what_the_original_prints";
    let Some(theirs) = original(test, "dump.erofs") else { return };
    let larder = Larder::new(User::Same);
    let ours = named(&larder, "dump.erofs");
    let lines = |outcome: Outcome| {
        let text = String::from_utf8_lossy(&outcome.stdout).into_owned();
        // Times are local there and UTC here.
        let kept = text.lines().filter(|line| !line.contains("created:") && !line.starts_with("Timestamp:"));
        kept.map(str::to_owned).collect::<Vec<_>>()
    };
    for image in golden() {
        let name = image.file_stem().expect("a name").to_string_lossy().into_owned();
        let mut questions = vec![vec!["-s"], vec!["--path=/a/text"], vec!["--path=/link"]];
        // Where `.` is left out of the directory, it is left out there; here it is listed, as by the kernel.
        if name != "metabox-zstd" {
            questions.push(vec!["--path=/", "--ls"]);
        }
        questions.push(vec!["--cat", "--path=/a/lines"]);
        // A fragment has no place of its own there; here it has that of its piece of the packed inode, which is not
        // counted as a file either.
        if !name.contains("fragments")
            && !name.contains("dedupe")
            && name != "zstd-dirs"
            && name != "metabox-zstd"
        {
            questions.push(vec!["-S"]);
            // A plain piece has its own length here, and whole blocks there.
            if !name.starts_with("wide") {
                questions.push(vec!["-e", "--path=/a/lines"]);
            }
        }
        for question in questions {
            let args: Vec<OsString> =
                question.iter().map(OsString::from).chain([image.clone().into()]).collect();
            let (here, there) = (call(&ours, args.clone()).ok(), call(&theirs, args).ok());
            assert_eq!(lines(here), lines(there), "{name}: {question:?}");
        }
    }
}

#[test]
fn mkfs_writes_what_the_kernel_and_the_original_read() {
    let test = "mkfs_writes_what_the_kernel_and_the_original_read";
    let larder = Larder::new(User::Same);
    let ours = named(&larder, "mkfs.erofs");
    let source = larder.dir("source");
    tree::plain(&source);
    let theirs = original(test, "fsck.erofs");
    let kernel = larder.dir("kernel");
    let image = larder.path("image.erofs");
    for options in [
        &["--quiet"][..],
        &["--quiet", "-Enoinline_data", "-Uc1b9d5a2-f162-11cf-9ece-0020afc76f16"],
        &["--quiet", "-zlz4", "-C16384"],
        &["--quiet", "-zzstd,level=5", "-C65536", "-Eztailpacking,dedupe"],
        &["--quiet", "--chunksize=65536", "-Lsome-label"],
    ] {
        let args = |source: &Path| -> Vec<OsString> {
            let operands = [image.clone().into_os_string(), source.into()];
            options.iter().map(OsString::from).chain(operands).collect()
        };
        assert_eq!(call(&ours, args(&source)).ok().stdout, b"", "{options:?}: it was to be quiet");
        let first = fs::read(&image).expect("written");
        let out = larder.path("out");
        larder
            .run(["erofs".into(), "extract".into(), image.clone().into_os_string(), out.clone().into()])
            .ok();
        assert_same(&source, &out);
        fs::remove_dir_all(&out).expect("ours");
        match KernelMount::new(&image, &[], &kernel) {
            Ok(_mounted) => {
                assert_same(&source, &kernel);
            }
            Err(why) => skip(test, &why),
        }
        if let Some(theirs) = &theirs {
            call(theirs, ["--extract".into(), image.clone().into_os_string()]).ok();
        }
        // An older, longer file leaves nothing behind.
        fs::write(&image, vec![7; first.len() + 100_000]).expect("writable");
        call(&ours, args(&source)).ok();
        let text = String::from_utf8(call(&named(&larder, "dump.erofs"), [image.clone()]).ok().stdout)
            .expect("text");
        assert_eq!(fs::read(&image).expect("written").len(), first.len(), "{text}");
        if options.contains(&"-Uc1b9d5a2-f162-11cf-9ece-0020afc76f16") {
            assert!(text.contains("c1b9d5a2-f162-11cf-9ece-0020afc76f16"), "{text}");
        }
    }
}

#[test]
fn mkfs_makes_the_same_bytes_under_source_date_epoch_and_gives_files_to_root() {
    let larder = Larder::new(User::Same);
    let ours = named(&larder, "mkfs.erofs");
    let source = larder.dir("source");
    fs::write(source.join("file"), "x").expect("a file");
    let build = |name: &str| {
        let image = larder.path(name);
        let mut command = command(User::Same, &ours);
        command.env("SOURCE_DATE_EPOCH", "1000").args(["--all-root", "-zlz4"]).args([&image, &source]);
        let said = run(command).ok().stdout;
        assert!(String::from_utf8_lossy(&said).contains("Filesystem total inodes: 2"));
        (fs::read(&image).expect("written"), image)
    };
    let ((one, image), (two, _)) = (build("one"), build("two"));
    assert!(one == two, "the same input gives the same bytes");
    let stat: Vec<OsString> =
        vec!["erofs".into(), "stat".into(), "--json".into(), image.into(), "/file".into(), "/".into()];
    for stat in larder.run(stat).json().as_array().expect("a list") {
        assert_eq!((stat["uid"].as_u64(), stat["gid"].as_u64()), (Some(0), Some(0)));
        assert_eq!(stat["mtime_seconds"].as_u64(), Some(1000));
    }
}

/// Calls `mkfs.erofs` as containerd does: the archive comes on standard input.
fn from_stdin(program: &Path, archive: &Path, args: &[OsString]) -> Outcome {
    let mut command = command(User::Same, "sh");
    command
        .args(["-c", r#"archive=$1; shift; exec "$@" <"$archive""#, "sh"])
        .arg(archive)
        .arg(program)
        .args(args);
    run(command)
}

/// Packs directories, one behind the other, as the layers of container images are.
fn pack(archive: &Path, dirs: &[&Path]) {
    let mut command = Command::new("tar");
    command.args(["--format=pax", "--xattrs", "--xattrs-include=*", "-cf"]).arg(archive);
    for dir in dirs {
        command.arg("-C").arg(dir).arg(".");
    }
    assert!(command.status().expect("tar is everywhere").success());
}

/// Compresses a file with the tool for it; `None`, and says so, where that is missing.
fn compressed(test: &str, tool: &str, file: &Path) -> Option<PathBuf> {
    let Ok(output) = Command::new(tool).arg("-c").arg(file).output() else {
        skip(test, &format!("{tool} cannot run here"));
        return None;
    };
    assert!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&output.stderr));
    let path = file.with_extension(tool);
    fs::write(&path, output.stdout).expect("writable");
    Some(path)
}

const UUID: &str = "c1b9d5a2-f162-11cf-9ece-0020afc76f16";

/// Every way in which the EROFS differ of containerd 2.1 calls it; the archive is that of a layer.
#[test]
fn the_command_lines_of_containerd_make_layers_that_the_kernel_shows() {
    let test = "the_command_lines_of_containerd_make_layers_that_the_kernel_shows";
    let larder = Larder::new(User::Same);
    let ours = named(&larder, "mkfs.erofs");
    // It asks this before it offers to take layers at all.
    let help = call(&ours, ["--help"]).ok().stdout;
    assert!(String::from_utf8_lossy(&help).contains("--tar="));
    let (source, archive) = (larder.dir("source"), larder.path("layer.tar"));
    tree::plain(&source);
    pack(&archive, &[&source]);
    let (kernel, image) = (larder.dir("kernel"), larder.path("layer.erofs"));
    let theirs = original(test, "fsck.erofs");
    for (args, index) in [
        (&["--tar=f", "--aufs", "--quiet", "-Enoinline_data", "-U", UUID][..], false),
        (&["--tar=f", "--aufs", "--quiet", "-Enoinline_data", "-zlz4hc,12", "-C65536", "-U", UUID], false),
        (&["--tar=i", "--aufs", "--quiet", "-U", UUID], true),
    ] {
        let args: Vec<OsString> = args.iter().map(OsString::from).chain([image.clone().into()]).collect();
        assert_eq!(from_stdin(&ours, &archive, &args).ok().stdout, b"", "{args:?}: it was to be quiet");
        let stored = fs::read(&image).expect("written");
        assert_eq!(stored[1024 + 48..][..4], [0xc1, 0xb9, 0xd5, 0xa2], "{args:?}: the identity");
        if index {
            // containerd puts the archive behind its index.
            assert!(stored.len() < 200_000, "{} bytes of metadata", stored.len());
            fs::write(&image, [stored, fs::read(&archive).expect("ours")].concat()).expect("writable");
        }
        match KernelMount::new(&image, &[], &kernel) {
            Ok(_mounted) => assert!(assert_same(&source, &kernel) > 20, "{args:?}"),
            Err(why) => skip(test, &why),
        }
        if let Some(theirs) = theirs.as_ref().filter(|_| !index) {
            call(theirs, ["--extract".into(), image.clone().into_os_string()]).ok();
        }
    }
}

#[test]
fn mkfs_turns_the_whiteouts_of_archives_into_those_of_overlayfs() {
    let larder = Larder::new(User::Same);
    let ours = named(&larder, "mkfs.erofs");
    let (source, archive) = (larder.dir("source"), larder.path("layer.tar"));
    fs::create_dir(source.join("dir")).expect("a directory");
    for name in ["kept", ".wh.gone", "dir/.wh..wh..opq"] {
        fs::write(source.join(name), "").expect("a file");
    }
    pack(&archive, &[&source]);
    let listed = |args: &[&str]| {
        let image = larder.path("layer.erofs");
        let args: Vec<OsString> = args.iter().map(OsString::from).chain([image.clone().into()]).collect();
        from_stdin(&ours, &archive, &args).ok();
        ["/dir", "/gone", "/.wh.gone"].map(|path| {
            let args =
                [OsString::from("erofs"), "stat".into(), "--json".into(), image.clone().into(), path.into()];
            let outcome = larder.run(args);
            if outcome.code == 0 {
                String::from_utf8_lossy(&outcome.stdout).into_owned()
            } else {
                String::new()
            }
        })
    };
    let [dir, gone, mark] = listed(&["--tar=f", "--aufs", "--quiet"]);
    assert!(dir.contains("trusted.overlay.opaque"), "{dir}");
    assert!(gone.contains("char") && mark.is_empty(), "{gone}{mark}");
    let [dir, gone, mark] = listed(&["--tar=f", "--aufs", "--ovlfs-strip=1", "--quiet"]);
    assert!(
        !dir.contains("trusted.overlay.opaque") && gone.is_empty() && mark.is_empty(),
        "{dir}{gone}{mark}"
    );
    let [dir, gone, mark] = listed(&["--tar=f", "--quiet"]);
    assert!(!dir.contains("trusted.overlay.opaque") && gone.is_empty() && !mark.is_empty(), "{dir}{gone}");
}

#[test]
fn mkfs_decodes_archives_and_keeps_what_it_decoded_when_asked() {
    let test = "mkfs_decodes_archives_and_keeps_what_it_decoded_when_asked";
    let larder = Larder::new(User::Same);
    let ours = named(&larder, "mkfs.erofs");
    let (source, archive) = (larder.dir("source"), larder.path("layer.tar"));
    tree::plain(&source);
    pack(&archive, &[&source]);
    let image = |name: &str, archive: &Path, args: &[&str]| {
        let image = larder.path(name);
        let mut command = command(User::Same, &ours);
        command.args(["--quiet", "-T0", "-Uclear", "--all-root"]).args(args).args([image.as_path(), archive]);
        (run(command), image)
    };
    let (outcome, plain) = image("plain.erofs", &archive, &["--tar=f"]);
    outcome.ok();
    let plain = fs::read(plain).expect("written");
    for tool in ["gzip", "xz", "zstd"] {
        let Some(packed) = compressed(test, tool, &archive) else { continue };
        let (outcome, made) = image("made.erofs", &packed, &["--tar=f"]);
        outcome.ok();
        assert!(fs::read(made).expect("written") == plain, "{tool}");
        let (outcome, _) = image("index.erofs", &packed, &["--tar=i"]);
        assert!(outcome.code == 1 && outcome.stderr.contains(tool), "{tool}: {}", outcome.stderr);
        if tool == "gzip" {
            let raw = larder.path("raw.tar");
            let option = format!("--ungzip={}", raw.display());
            let (outcome, index) = image("index.erofs", &packed, &["--tar=i", &option]);
            outcome.ok();
            assert!(fs::read(&raw).expect("kept") == fs::read(&archive).expect("ours"));
            let out = larder.path("out");
            let device = format!("--device={}", raw.display());
            let args =
                [OsString::from("erofs"), "extract".into(), device.into(), index.into(), out.clone().into()];
            larder.run(args).ok();
            let motd = |dir: &Path| fs::read(dir.join("etc/motd")).expect("it is there");
            assert_eq!(motd(&out), motd(&source));
        }
    }
    let (outcome, _) = image("made.erofs", &archive, &["--tar=f", "--unxz"]);
    assert!(outcome.code == 1 && outcome.stderr.contains("not compressed with xz"), "{}", outcome.stderr);
}

#[test]
fn mkfs_stores_data_in_a_file_of_its_own_with_blobdev() {
    let test = "mkfs_stores_data_in_a_file_of_its_own_with_blobdev";
    let larder = Larder::new(User::Same);
    let ours = named(&larder, "mkfs.erofs");
    let source = larder.dir("source");
    tree::plain(&source);
    let (image, blob, kernel) = (larder.path("image.erofs"), larder.path("blob"), larder.dir("kernel"));
    let option = format!("--blobdev={}", blob.display());
    let words = ["--quiet", "-Enoinline_data", "--chunksize=65536", "-U", UUID, &option].map(OsString::from);
    call(&ours, words.into_iter().chain([image.clone().into(), source.clone().into()])).ok();
    assert!(fs::metadata(&blob).expect("written").len() > fs::metadata(&image).expect("written").len());
    match KernelMount::new(&image, &[blob], &kernel) {
        Ok(_mounted) => assert!(assert_same(&source, &kernel) > 20),
        Err(why) => skip(test, &why),
    }
}

/// Chunks, and data that stay in other images, are not encoded: what asks for that is refused, not forgotten.
#[test]
fn mkfs_refuses_by_name_what_does_not_go_with_blobdev_or_images() {
    let larder = Larder::new(User::Same);
    let ours = named(&larder, "mkfs.erofs");
    let source = larder.dir("source");
    fs::write(source.join("file"), "contents").expect("a file");
    let (image, layer) = (larder.path("image.erofs"), larder.path("layer.erofs"));
    call(&ours, [OsString::from("--quiet"), layer.clone().into(), source.clone().into()]).ok();
    let option = format!("--blobdev={}", larder.path("blob").display());
    for word in ["-zlz4", "-C65536", "--max-extent-bytes=65536", "-Eztailpacking", "-Efragments", "-Ededupe"]
    {
        let words = ["--quiet", "--chunksize=65536", &option, word].map(OsString::from);
        let apart = call(&ours, words.into_iter().chain([image.clone().into(), source.clone().into()]));
        let words = ["--quiet", word].map(OsString::from);
        let merged = call(&ours, words.into_iter().chain([image.clone().into(), layer.clone().into()]));
        let name = word.split_once('=').map_or(word, |(name, _)| name);
        let name = if word.starts_with("-E") || name.starts_with("--") { name } else { &name[..2] };
        for outcome in [apart, merged] {
            assert_eq!(outcome.code, 1, "{word}: {}", outcome.stderr);
            assert!(outcome.stderr.contains(&format!("{name} ")), "{word}: {}", outcome.stderr);
        }
        assert!(!image.exists(), "{word}: something was written");
    }
}

#[test]
fn p7_mkfs_says_what_does_nothing_without_a_compressor() {
    let larder = Larder::new(User::Same);
    let ours = named(&larder, "mkfs.erofs");
    let source = larder.dir("source");
    fs::write(source.join("file"), vec![b'x'; 10_000]).expect("a file");
    let make = |name: &str, words: &[&str]| {
        let image = larder.path(name);
        let operands = [image.clone().into_os_string(), source.clone().into()];
        let said = call(&ours, words.iter().map(OsString::from).chain(operands)).ok().stderr;
        (fs::read(image).expect("written"), said)
    };
    let usual = ["-T0", "-Uclear"];
    let idle = ["-C65536", "--max-extent-bytes=65536", "-Elegacy-compress,ztailpacking,fragments,dedupe"];
    let (plain, said) = make("plain", &usual);
    assert_eq!(said, "");
    let (same, said) = make("same", &[usual, ["-C65536", idle[2]]].concat());
    assert!(plain == same, "as if they had not been said");
    for name in ["-C", "-Elegacy-compress", "-Eztailpacking", "-Efragments", "-Ededupe"] {
        assert!(said.contains(&format!("<W> erofs: {name} does nothing without -z")), "{name}: {said}");
    }
    assert_eq!(make("quiet", &[&usual[..], &idle, &["--quiet"]].concat()).1, "");
    assert_eq!(make("busy", &[&usual[..], &idle, &["-zlz4"]].concat()).1, "");
}

#[test]
fn p1_a_failed_mkfs_leaves_nothing_that_could_be_taken_for_an_image() {
    let larder = Larder::new(User::Same);
    let ours = named(&larder, "mkfs.erofs");
    let source = larder.dir("source");
    fs::write(source.join("file"), vec![b'x'; 10_000]).expect("a file");
    let (image, old) = (larder.path("image.erofs"), larder.path("old.erofs"));
    let (raw, blob, short) = (larder.path("raw"), larder.path("blob"), larder.path("short.tar"));
    // A header that announces what does not come.
    let mut header = vec![0; 512];
    let fields = [(0, "file"), (100, "0000644"), (108, "0"), (116, "0"), (124, "40000000000"), (136, "0")];
    for (at, text) in fields {
        header[at..at + text.len()].copy_from_slice(text.as_bytes());
    }
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header.resize(9_000_000, 7);
    fs::write(&short, header).expect("writable");
    let raw_option = format!("--ungzip={}", raw.display());
    let zipped = larder.path("short.tar.gz");
    let gzip = Command::new("gzip").arg("-c").arg(&short).output().expect("gzip");
    fs::write(&zipped, gzip.stdout).expect("writable");
    call(&ours, [old.clone().into_os_string(), source.clone().into()]).ok();
    for out in [&image, &old] {
        let outcome = call(&ours, ["--tar=f".into(), out.into(), short.clone().into_os_string()]);
        assert!(outcome.code == 1 && outcome.stderr.contains("in the middle"), "{}", outcome.stderr);
        let words = ["--tar=f", &raw_option].map(OsString::from);
        let outcome = call(&ours, words.into_iter().chain([out.into(), zipped.clone().into_os_string()]));
        assert_eq!(outcome.code, 1, "{}", outcome.stderr);
    }
    assert!(!image.exists() && !raw.exists());
    assert_eq!(fs::read(&old).expect("it was there before, and is there"), b"");
    let words = ["--chunksize=4096".into(), format!("--blobdev={}", blob.display())].map(OsString::from);
    let nowhere = larder.path("no-directory").join("image.erofs");
    let outcome = call(&ours, words.into_iter().chain([nowhere.into(), source.into()]));
    assert!(outcome.code == 1 && !blob.exists(), "{}", outcome.stderr);
}

#[test]
fn mkfs_of_a_source_that_is_not_there_leaves_the_image_that_was() {
    let larder = Larder::new(User::Same);
    let ours = named(&larder, "mkfs.erofs");
    let image = larder.path("old.erofs");
    fs::write(&image, "an image").expect("writable");
    for source in [larder.path("nothing"), image.join("below")] {
        let outcome = call(&ours, [image.clone().into_os_string(), source.clone().into_os_string()]);
        assert_eq!(outcome.code, 1, "{}", outcome.stderr);
        assert!(outcome.stderr.contains(source.to_str().expect("a name")), "{}", outcome.stderr);
        assert_eq!(fs::read(&image).expect("there"), b"an image");
    }
}

#[test]
fn an_image_that_is_made_in_its_source_is_no_part_of_itself() {
    let larder = Larder::new(User::Same);
    let ours = named(&larder, "mkfs.erofs");
    let source = larder.dir("source");
    for number in 0..50 {
        fs::write(source.join(format!("file-{number}")), vec![b'x'; 100_000]).expect("a file");
    }
    let words = |image: &Path| [OsString::from("-T0"), image.into(), source.clone().into_os_string()];
    let (inside, outside) = (source.join("image.erofs"), larder.path("image.erofs"));
    call(&ours, words(&outside)).ok();
    let expected = fs::read(&outside).expect("made");
    let link = larder.path("link");
    std::os::unix::fs::symlink(&inside, &link).expect("a link");
    // Through a link to what is not there yet, and over what is.
    for image in [&link, &inside, &link] {
        call(&ours, words(image)).ok();
        assert!(fs::read(&inside).expect("made") == expected, "{}: another image", image.display());
    }
}

/// A mount of ours; dropped, it is unmounted.
struct FuseMount(PathBuf);

impl Drop for FuseMount {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

#[test]
fn erofsfuse_shows_what_the_kernel_shows() {
    let test = "erofsfuse_shows_what_the_kernel_shows";
    if !is_root() || !Path::new("/dev/fuse").exists() {
        skip(test, "needs root and /dev/fuse");
        return;
    }
    let larder = Larder::new(User::Same);
    let ours = named(&larder, "erofsfuse");
    let (fuse, kernel) = (larder.dir("fuse"), larder.dir("kernel"));
    for image in golden().into_iter().filter(|image| kernel_shows_all(image)) {
        let copy = larder.path("copy.img");
        fs::copy(&image, &copy).expect("a copy");
        // It returns when it is mounted, and leaves no pipe open.
        call(&ours, [copy.clone().into_os_string(), fuse.clone().into()]).ok();
        let mounted = FuseMount(fuse.clone());
        match KernelMount::new(&copy, &[], &kernel) {
            Ok(_kernel) => assert!(assert_same(&kernel, &fuse) > 20, "{}", image.display()),
            Err(why) => skip(test, &why),
        }
        // Set as soon as it is mounted, whether the kernel has begun to ask by then or not.
        let device = fs::metadata(&fuse).expect("mounted").dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let file = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
        match fs::OpenOptions::new().write(true).open(&file) {
            Ok(_) => {
                let kib = fs::read_to_string(&file).expect("readable");
                assert_eq!(kib.trim(), "512", "{}", image.display());
            }
            Err(error) => skip(test, &format!("nobody may say here how far to read ahead: {error}")),
        }
        drop(mounted);
    }
    let nothing = call(&ours, [larder.path("nothing"), fuse.clone()]);
    assert!(nothing.code == 1 && nothing.stderr.contains("No such file"), "{}", nothing.stderr);
    let refused = call(&ours, [OsString::from("-orw"), golden_image("lz4").into(), fuse.into()]);
    assert!(refused.code == 1 && refused.stderr.contains("option rw is not supported"), "{}", refused.stderr);
}

#[test]
fn erofsfuse_takes_devices_and_stays_in_the_foreground_when_asked() {
    let test = "erofsfuse_takes_devices_and_stays_in_the_foreground_when_asked";
    if !is_root() || !Path::new("/dev/fuse").exists() {
        skip(test, "needs root and /dev/fuse");
        return;
    }
    let larder = Larder::new(User::Same);
    let source = larder.dir("source");
    tree::nasty(&source);
    let image = ImageFile::build(&larder, &source, "image");
    let at = larder.dir("fuse");
    let mut command = command(User::Same, named(&larder, "erofsfuse"));
    command.arg("-f").args(image.arguments()).arg(&at);
    let mut child = command.spawn().expect("it can be started");
    let mounted = FuseMount(at.clone());
    let begun = std::time::Instant::now();
    while !fs::read_to_string("/proc/mounts").expect("Linux has it").contains(&*at.to_string_lossy()) {
        assert!(child.try_wait().expect("ours").is_none(), "it ended");
        assert!(begun.elapsed().as_secs() < 60, "it does not mount");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_same(&source, &at);
    drop(mounted);
    assert!(child.wait().expect("ours").success(), "it ends with the mount");
}
