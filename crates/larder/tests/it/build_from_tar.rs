//! `larder build tar:...`: what an archive holds, without unpacking it.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::program::{Outcome, User, argument, binary, run, tool};
use crate::support::{self, Image, Larder, compare, is_root, skip, tree};

/// Packs `source` into `archive` with tar and these options.
fn pack(source: &Path, archive: &Path, options: &[&str]) {
    let mut tar = Command::new("tar");
    tar.args(["--format=pax", "--xattrs", "--xattrs-include=*", "--sparse", "--sort=name"]).args(options);
    run({
        tar.arg("-cf").arg(archive).arg("-C").arg(source).arg(".");
        tar
    })
    .ok();
}

/// Builds from standard input.
fn piped(larder: &Larder, archive: &Path, name: &str) -> Outcome {
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec \"$0\" build --json tar:- \"oci:$1\" <\"$2\""]);
    shell.arg(binary()).arg(larder.path(name)).arg(archive);
    run(shell)
}

#[test]
fn an_archive_becomes_the_image_of_what_it_holds_however_it_comes() {
    let test = "an_archive_becomes_the_image_of_what_it_holds_however_it_comes";
    if tool("tar").is_none() {
        return skip(test, "there is no tar");
    }
    let larder = Larder::new(User::Same);
    let source = larder.dir("source");
    tree::plain(&source);
    if is_root() {
        let more = source.join("nasty");
        fs::create_dir(&more).expect("a directory");
        tree::nasty(&more);
        // Archives hold no sockets.
        fs::remove_file(more.join("special/socket")).expect("it was made");
    }
    let plain = larder.path("plain.tar");
    pack(&source, &plain, &[]);
    let build = |name: &str, from: &Path| {
        let args = ["build".into(), "--json".into(), argument("tar:", from)];
        larder.run(args.into_iter().chain([argument("oci:", &larder.path(name))])).json()
    };
    let report = build("plain", &plain);
    let mut others = vec![];
    for (option, program) in [("--gzip", "gzip"), ("--zstd", "zstd"), ("--xz", "xz")] {
        if tool(program).is_none() {
            skip(test, &format!("there is no {program}"));
            continue;
        }
        let archive = larder.path(program);
        pack(&source, &archive, &[option]);
        others.push(build(&format!("from-{program}"), &archive));
    }
    others.push(piped(&larder, &plain, "piped").json());
    for other in &others {
        assert_eq!(other["manifest"], report["manifest"]);
    }
    let unpacked = {
        let args = ["build".into(), "--json".into(), argument("dir:", &source)];
        larder.run(args.into_iter().chain([argument("oci:", &larder.path("unpacked"))])).json()
    };
    for same in ["inodes", "deduplicated_bytes"] {
        assert_eq!(report[same], unpacked[same], "{same}");
    }
    assert_eq!(report["data"]["decoded_bytes"], unpacked["data"]["decoded_bytes"]);
    let dir = larder.path("plain");
    let image = Image { registry: larder_testkit::Registry::layout_from_dir(&dir), dir };
    for frontend in support::FRONT_ENDS {
        if larder.cannot(frontend).is_none() {
            compare::assert_same(&source, &larder.mount(&image.reference(), frontend, frontend));
        }
    }
}

#[test]
fn an_archive_that_is_missing_damaged_or_empty_leaves_no_output() {
    let larder = Larder::new(User::Same);
    let archive = larder.path("archive");
    let refused = || {
        let args = ["build".into(), argument("tar:", &archive), argument("oci:", &larder.path("out"))];
        larder.run(args).failed()
    };
    let said = refused();
    assert!(said.contains("archive: cannot be read"), "{said}");
    fs::write(&archive, [1; 700]).expect("a file");
    let said = refused();
    assert!(said.contains("archive") && said.contains("checksum"), "{said}");
    fs::write(&archive, "").expect("a file");
    let said = refused() + &piped(&larder, &archive, "out").failed();
    assert_eq!(said.matches("is empty").count(), 2, "{said}");
    assert!(!larder.path("out").exists());
}
