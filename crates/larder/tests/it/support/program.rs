//! Running the program under test, as root or as nobody, never for longer than a minute or two.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// What a command may take at most.
const DEADLINE: Duration = Duration::from_secs(120);

/// Who runs the program.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum User {
    /// Whoever runs the tests.
    Same,
    /// User and group 65534, without any rights: only root can become this.
    Nobody,
}

/// What became of a command.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit status; 128 and more for signals.
    pub code: i32,
    /// What it printed.
    pub stdout: Vec<u8>,
    /// What it said.
    pub stderr: String,
}

impl Outcome {
    /// Insists on status 0.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}{}", self.stderr, String::from_utf8_lossy(&self.stdout));
        self
    }

    /// Insists on a failure with one clear error, and returns what was said.
    #[track_caller]
    pub fn failed(self) -> String {
        assert_eq!(self.code, 1, "{}{}", self.stderr, String::from_utf8_lossy(&self.stdout));
        assert_eq!(self.stderr.matches("error: ").count(), 1, "one error, not: {}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self.stderr
    }

    /// What it printed, as JSON.
    #[track_caller]
    pub fn json(self) -> serde_json::Value {
        let outcome = self.ok();
        serde_json::from_slice(&outcome.stdout).expect("the output is JSON")
    }
}

/// The program under test; a copy that everybody may run, where the build directory may be private.
pub fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_larder"))
}

/// A command that runs `program` as `user`, with nothing of ours in its environment.
pub fn command(user: User, program: impl AsRef<OsStr>) -> Command {
    let mut command = match user {
        User::Same => Command::new(program.as_ref()),
        User::Nobody => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(program.as_ref());
            command
        }
    };
    for variable in ["LARDER_ROOT", "LARDER_LOG", "SOURCE_DATE_EPOCH", "XDG_RUNTIME_DIR", "XDG_DATA_HOME"] {
        command.env_remove(variable);
    }
    command
}

/// Runs a command to its end.
///
/// # Panics
///
/// When it cannot be started, or does not end in time: it is ended then.
#[track_caller]
pub fn run(mut command: Command) -> Outcome {
    let shown = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{shown}: {error}"));
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let status = wait(&mut child, &shown);
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1);
    let stderr = String::from_utf8_lossy(&stderr.join().expect("a reader")).into_owned();
    Outcome { code, stdout: stdout.join().expect("a reader"), stderr }
}

fn collect(pipe: Option<impl std::io::Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut data = Vec::new();
        if let Some(mut pipe) = pipe {
            pipe.read_to_end(&mut data).expect("a pipe can be read");
        }
        data
    })
}

#[track_caller]
fn wait(child: &mut Child, shown: &str) -> std::process::ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return status;
        }
        if begun.elapsed() > DEADLINE {
            drop(child.kill());
            drop(child.wait());
            panic!("{shown} did not end within {DEADLINE:?}");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// `prefix` and the path, as one argument.
pub fn argument(prefix: &str, path: &Path) -> OsString {
    let mut argument = OsString::from(prefix);
    argument.push(path);
    argument
}

/// The path of an existing tool, or `None`.
pub fn tool(name: &str) -> Option<PathBuf> {
    ["/usr/bin", "/bin", "/usr/sbin", "/sbin"]
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.exists())
}
