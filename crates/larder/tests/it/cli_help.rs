//! The help texts are golden files: `LARDER_BLESS=1 cargo test -p larder --test it cli_help::` writes them anew.

use std::fs;
use std::path::Path;

use crate::support::program::User;
use crate::support::{self, Larder};

const COMMANDS: [&str; 28] = [
    "demo",
    "build",
    "serve",
    "mount",
    "umount",
    "run",
    "ls",
    "cat",
    "status",
    "cache",
    "cache ls",
    "cache du",
    "cache prune",
    "cache pin",
    "cache unpin",
    "cache verify",
    "erofs",
    "erofs ls",
    "erofs cat",
    "erofs stat",
    "erofs extract",
    "erofs fsck",
    "erofs dump",
    "erofs diff",
    "erofs merge",
    "trace",
    "doctor",
    "daemon",
];

#[test]
fn help_texts_are_the_golden_files() {
    let larder = Larder::new(User::Same);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let bless = std::env::var_os("LARDER_BLESS").is_some();
    let mut different = Vec::new();
    for command in [""].iter().chain(&COMMANDS) {
        let mut program = larder.command(command.split_whitespace().chain(["--help"]));
        // The width of the text must not depend on the terminal's.
        program.env("COLUMNS", "100");
        let shown = support::program::run(program).ok().stdout;
        let name = if command.is_empty() { "larder".to_owned() } else { command.replace(' ', "-") };
        let path = golden.join(format!("{name}.txt"));
        if bless {
            fs::create_dir_all(&golden).expect("our own directory");
            fs::write(&path, &shown).expect("our own file");
        } else if fs::read(&path).ok().as_deref() != Some(&shown) {
            different.push(format!("{}:\n{}", path.display(), String::from_utf8_lossy(&shown)));
        }
    }
    assert!(different.is_empty(), "look at them, then run with LARDER_BLESS=1:\n{}", different.join("\n"));
}

#[test]
fn every_help_text_has_examples() {
    let larder = Larder::new(User::Same);
    for command in COMMANDS {
        let shown = larder.run(command.split_whitespace().chain(["--help"])).ok().stdout;
        assert!(String::from_utf8_lossy(&shown).contains("\nExamples:\n"), "{command}");
    }
}

#[test]
fn a_broken_pipe_ends_quietly() {
    let larder = Larder::new(User::Same);
    let mut command = larder.command(["--help"]);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = command.stdout(writer).output().expect("it can be started");
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}
