//! `larder demo`: the whole way through the real binary, on a small tree, and nothing left behind.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;

/// A user that owns nothing.
const NOBODY: &str = "65534";

/// A tree with a shell, what the shell needs, and files that it does not need; and a place for the demo's own files.
struct Fixture {
    temp: TempDir,
}

impl Fixture {
    /// None, with the reason on standard output, on a host whose shell cannot be copied.
    fn new() -> Option<Self> {
        // On a disk: what the demo writes there is to be marked and mounted.
        let temp = tempfile::tempdir_in("/var/tmp").expect("a temporary directory");
        let fixture = Self { temp };
        let tree = fixture.tree();
        for program in ["/bin/sh", "/bin/cat"] {
            if !copy_program(Path::new(program), &tree) {
                println!("skipped: ldd does not tell what {program} needs");
                return None;
            }
        }
        let data = tree.join("usr/share/data");
        fs::create_dir_all(&data).expect("a directory can be made");
        for number in 0..120 {
            fs::write(data.join(number.to_string()), noise(number)).expect("a file can be written");
        }
        fs::create_dir(fixture.place()).expect("a directory can be made");
        for (path, mode) in [(fixture.temp.path().to_owned(), 0o755), (fixture.place(), 0o1777)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode can be set");
        }
        Some(fixture)
    }

    fn tree(&self) -> PathBuf {
        self.temp.path().join("tree")
    }

    /// Where the demo makes its directory.
    fn place(&self) -> PathBuf {
        self.temp.path().join("place")
    }

    fn arguments(&self, more: &[&str]) -> Vec<String> {
        let tree = self.tree().to_string_lossy().into_owned();
        let fixed = ["demo", "--json", "--latency", "1ms", "--bandwidth", "unlimited", "--source", &tree];
        fixed.iter().chain(more).map(|word| (*word).to_owned()).collect()
    }

    fn demo(&self, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
        command.args(self.arguments(more)).env("TMPDIR", self.place()).env_remove("LARDER_ROOT");
        command
    }

    /// Fails unless files, mounts and processes of the demo are gone.
    fn nothing_is_left(&self) {
        let left: Vec<_> = fs::read_dir(self.place()).expect("it can be listed").flatten().collect();
        assert!(left.is_empty(), "files are left: {left:?}");
        let place = self.place().to_string_lossy().into_owned();
        let mounts = fs::read_to_string("/proc/self/mounts").expect("it can be read");
        assert!(!mounts.contains(&place), "a mount is left: {mounts}");
        for process in fs::read_dir("/proc").expect("it can be listed").flatten() {
            let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            assert!(!line.contains(&place), "a process is left: {line}");
        }
    }
}

/// 100,000 bytes that cannot be compressed.
fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..100_000).map(step).collect()
}

/// Copies a program and its libraries to the same places under `tree`.
fn copy_program(program: &Path, tree: &Path) -> bool {
    let Ok(listed) = Command::new("ldd").arg(program).output() else { return false };
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let libraries = text.split_whitespace().filter(|word| word.starts_with('/')).map(Path::new);
    for path in std::iter::once(program).chain(libraries) {
        let inside = tree.join(path.strip_prefix("/").expect("it is absolute"));
        fs::create_dir_all(inside.parent().expect("it has one")).expect("directories can be made");
        fs::copy(path, &inside).expect("a program can be copied");
    }
    listed.status.success()
}

fn figures(output: &Output) -> serde_json::Value {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}", output.status);
    serde_json::from_slice(&output.stdout).expect("standard output is JSON and nothing else")
}

fn number(figures: &serde_json::Value, name: &str) -> f64 {
    figures[name].as_f64().unwrap_or_else(|| panic!("{name} is a number in {figures}"))
}

/// What every demo must show.
fn check(figures: &serde_json::Value) {
    assert_eq!(figures["verified"], true, "{figures}");
    assert_eq!(figures["program"], "sh");
    let (image, lazy, full) =
        (number(figures, "image_bytes"), number(figures, "fetched_bytes"), number(figures, "full_bytes"));
    assert!(lazy < image / 2.0, "a shell needs little of the tree: {figures}");
    assert!(full >= image, "{figures}");
    assert!(number(figures, "lazy_requests") > 3.0 && number(figures, "full_requests") >= 4.0, "{figures}");
    assert!(number(figures, "lazy_seconds") > 0.0 && number(figures, "full_seconds") > 0.0);
    assert!(number(&figures["compared"], "files") >= 1.0, "{figures}");
}

const READY: [&str; 4] = ["--", "sh", "-c", "echo ready; cat /usr/share/data/7 > /dev/null"];

#[test]
fn the_best_front_end_runs_a_program_and_leaves_nothing() {
    let Some(fixture) = Fixture::new() else { return };
    let page = fixture.temp.path().join("report.html");
    let report = ["--report", page.to_str().expect("it is text")];
    let output = fixture.demo(&[&report[..], &READY].concat()).output().expect("the program runs");
    check(&figures(&output));
    let text = fs::read_to_string(page).expect("the report is written");
    assert!(text.contains("every byte verified") && text.contains("</html>"));
    fixture.nothing_is_left();
}

#[test]
fn a_user_without_rights_runs_it_through_fuse() {
    if !geteuid().is_root() {
        println!("skipped: needs root to become another user");
        return;
    }
    if !Path::new("/usr/bin/fusermount3").exists() {
        println!("skipped: needs fusermount3");
        return;
    }
    let mode = fs::metadata("/dev/fuse").map_or(0, |found| found.permissions().mode());
    if mode & 0o006 != 0o006 {
        println!("skipped: needs a /dev/fuse that everybody may open");
        return;
    }
    let Some(fixture) = Fixture::new() else { return };
    // Where this test was built nobody may be allowed to look.
    let program = fixture.temp.path().join("larder");
    fs::copy(env!("CARGO_BIN_EXE_larder"), &program).expect("the program can be copied");
    let mut command = Command::new("setpriv");
    command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]).arg(&program);
    command.args(fixture.arguments(&READY)).env("TMPDIR", fixture.place()).env_remove("LARDER_ROOT");
    let output = command.current_dir("/").output().expect("setpriv runs");
    let figures = figures(&output);
    assert_eq!(figures["frontend"], "fuse");
    check(&figures);
    fixture.nothing_is_left();
}

#[test]
fn a_program_that_fails_is_shown_with_its_words_and_leaves_nothing() {
    let Some(fixture) = Fixture::new() else { return };
    let output =
        fixture.demo(&["--", "sh", "-c", "echo no such luck >&2; exit 3"]).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("no such luck") && said.contains("exit status: 3") && said.contains("hint: "),
        "{said}"
    );
    assert!(output.stdout.is_empty());
    fixture.nothing_is_left();
}

#[test]
fn ctrl_c_leaves_nothing() {
    let Some(fixture) = Fixture::new() else { return };
    let demo = fixture.demo(&["--", "sh", "-c", "while :; do :; done"]);
    // Whoever runs the tests in the background of a shell has them ignore SIGINT.
    let mut command = Command::new("env");
    command.arg("--default-signal=INT").arg(demo.get_program()).args(demo.get_args());
    command.env_remove("LARDER_ROOT").env("TMPDIR", fixture.place());
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("the program runs");
    let stderr = BufReader::new(child.stderr.take().expect("it is a pipe"));
    let mut lines = stderr.lines().map_while(Result::ok);
    assert!(lines.any(|line| line.starts_with("running ")), "the program is started in the mount");
    kill_process(Pid::from_child(&child), Signal::INT).expect("it can be signalled");
    let said: Vec<_> = lines.collect();
    let status = child.wait().expect("it ends");
    assert_eq!(status.code(), Some(130), "{said:?}");
    fixture.nothing_is_left();
}

#[test]
fn wrong_wishes_are_clear_errors_before_any_work() {
    let Some(fixture) = Fixture::new() else { return };
    let nowhere = fixture.temp.path().join("nowhere").to_string_lossy().into_owned();
    let page = format!("{nowhere}/report.html");
    for (wish, code, words) in [
        (vec!["--source", nowhere.as_str()], 1, "nowhere: cannot be read"),
        (vec!["--report", page.as_str(), "--", "sh"], 1, "report.html: cannot be written"),
        (vec!["--", "nonesuch"], 1, "has no nonesuch"),
        (vec![], 1, "has no python3, perl or git"),
        (vec!["--max-size", "2 parsecs"], 2, "is no size"),
        (vec!["--frontend", "teleport"], 2, "fanotify"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
        command.arg("demo").env("TMPDIR", fixture.place());
        if wish.first() != Some(&"--source") {
            command.arg("--source").arg(fixture.tree());
        }
        let output = command.args(&wish).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{wish:?}: {said}");
        assert!(said.contains(words), "{wish:?}: {said}");
    }
    fixture.nothing_is_left();
}
