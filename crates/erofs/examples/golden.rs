//! Makes the golden images of the tests: `cargo run -p larder-erofs --example golden -- MKFS DIRECTORY`.
//!
//! `MKFS` is mkfs.erofs 1.9.4; the images in `tests/golden` were made by it. The tree is that of
//! `larder_erofs_fuzz::corpus::make_small`.

use std::path::PathBuf;
use std::process::Command;

use larder_erofs_fuzz::{corpus, golden};

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(mkfs), Some(directory)) = (arguments.next(), arguments.next().map(PathBuf::from)) else {
        eprintln!("usage: golden MKFS DIRECTORY");
        std::process::exit(2);
    };
    let tree = tempfile::tempdir().expect("can make a directory");
    corpus::make_small(tree.path());
    for (name, options) in golden::RECIPES {
        let image = directory.join(format!("{name}.img"));
        let _ = std::fs::remove_file(&image);
        let status = Command::new(&mkfs)
            .args(["--quiet", "-T1700000000", "--all-root", "-U00000000-0000-4000-8000-000000000000"])
            .args(options.split_whitespace())
            .args([image.as_os_str(), tree.path().as_os_str()])
            .status()
            .expect("mkfs.erofs can be started");
        assert!(status.success(), "mkfs.erofs {options}");
        println!("{:>8} {}", std::fs::metadata(&image).expect("made").len(), image.display());
    }
}
