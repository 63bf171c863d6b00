//! Show 3: a tree with every kind of thing in it looks the same through every front end as at its source.

use std::path::Path;

use crate::support::program::{User, argument, command, run};
use crate::support::{self, Image, Larder, compare, is_root, skip, tree};

fn a_nasty_tree_is_identical_through(frontend: &str, test: &str) {
    if !is_root() {
        return skip(test, "devices and foreign owners need root");
    }
    let larder = Larder::new(User::Same);
    if let Some(why) = larder.cannot(frontend) {
        return skip(test, &why);
    }
    let source = larder.dir("source");
    tree::nasty(&source);
    let image = Image::build(&larder, &source, "layout");
    let target = larder.mount(&image.reference(), "mnt", frontend);
    let compared = compare::assert_same(&source, &target);
    assert!(compared > 400, "{compared} things");
    // Once more: from the caches now.
    compare::assert_same(&source, &target);
    larder.run(["umount".as_ref(), target.as_os_str()]).ok();
    assert_eq!(larder.mounted(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_nasty_tree_is_identical_through_fanotify() {
    a_nasty_tree_is_identical_through("fanotify", "a_nasty_tree_is_identical_through_fanotify");
}

#[test]
fn a_nasty_tree_is_identical_through_fuse_blob() {
    a_nasty_tree_is_identical_through("fuse-blob", "a_nasty_tree_is_identical_through_fuse_blob");
}

#[test]
fn a_nasty_tree_is_identical_through_fuse() {
    a_nasty_tree_is_identical_through("fuse", "a_nasty_tree_is_identical_through_fuse");
}

#[test]
fn a_directory_of_50_000_entries_is_identical_through_every_front_end() {
    let larder = Larder::new(User::Same);
    let source = larder.dir("source");
    tree::crowd(&source, 50_000);
    let image = Image::build(&larder, &source, "layout");
    for frontend in support::FRONT_ENDS {
        if let Some(why) = larder.cannot(frontend) {
            skip(&format!("a_directory_of_50_000_entries ({frontend})"), &why);
            continue;
        }
        let target = larder.mount(&image.reference(), frontend, frontend);
        assert_eq!(compare::assert_same(&source, &target), 50_002);
    }
}

#[test]
fn a_user_without_rights_sees_the_same_tree_through_fuse() {
    let test = "a_user_without_rights_sees_the_same_tree_through_fuse";
    if !is_root() {
        return skip(test, "only root can become nobody (the other tests of fuse ran without rights)");
    }
    let larder = Larder::new(User::Nobody);
    if let Some(why) = larder.cannot("fuse") {
        return skip(test, &why);
    }
    let source = larder.dir("source");
    tree::plain(&source);
    let made_by_nobody = run({
        let mut command = command(User::Same, "chown");
        command.args(["-Rh", "65534:65534"]).arg(&source);
        command
    });
    made_by_nobody.ok();
    let layout = larder.path("layout");
    larder.run(["build".into(), argument("dir:", &source), argument("oci:", &layout)]).ok();
    let target = larder.dir("mnt");
    larder.run(["mount".into(), argument("oci:", &layout), target.clone().into_os_string()]).ok();
    // Only its owner may look at a FUSE mount.
    assert_eq!(listing(&source), listing(&target));
    larder.run(["umount".as_ref(), target.as_os_str()]).ok();
}

/// Every name with kind, mode, owner, links, size and time, and the digest of every file, as nobody sees it.
fn listing(root: &Path) -> String {
    let script = "cd \"$1\" && find . ! -type d -printf '%p %y %m %U:%G %n %s %T@ %l\\n' | sort \
        && find . -type d -printf '%p %m %U:%G %T@\\n' | sort \
        && find . -type f -print0 | sort -z | xargs -0 sha256sum";
    let mut command = command(User::Nobody, "sh");
    command.args(["-c", script, "sh"]).arg(root);
    String::from_utf8(run(command).ok().stdout).expect("plain names")
}
