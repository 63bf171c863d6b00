//! [`Larder`]: the program with a root of its own, and a daemon that is gone when the test is.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::program::{Outcome, User, binary, command, run};

/// The program with a root of its own.
pub struct Larder {
    user: User,
    temp: TempDir,
}

impl Larder {
    /// A new root for `user`.
    pub fn new(user: User) -> Self {
        let temp = tempfile::Builder::new().prefix("larder-test-").tempdir().expect("a temporary directory");
        let larder = Self { user, temp };
        larder.give(larder.temp.path());
        larder
    }

    /// A new directory below the test's own, for the user under test.
    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.temp.path().join(name);
        fs::create_dir(&path).expect("a directory can be made");
        self.give(&path);
        path
    }

    /// A path below the test's own directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn give(&self, path: &Path) {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("our own directory");
        if self.user == User::Nobody {
            chown(path, Some(65534), Some(65534)).expect("root may give it away");
        }
    }

    /// Where the daemon under test keeps everything.
    pub fn root(&self) -> PathBuf {
        self.temp.path().join("root")
    }

    /// The program with these arguments and our root.
    pub fn command<I>(&self, args: I) -> Command
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        let mut command = command(self.user, binary());
        command.arg("--root").arg(self.root()).args(args).current_dir(self.temp.path());
        command
    }

    /// Runs the program to its end.
    #[track_caller]
    pub fn run<I>(&self, args: I) -> Outcome
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        run(self.command(args))
    }

    /// Waits until so many objects of the cache are there for good: the daemon makes what was filled durable behind
    /// the reader.
    #[track_caller]
    pub fn wait_until_complete(&self, objects: usize) {
        let begun = Instant::now();
        loop {
            let listed = String::from_utf8(self.run(["cache", "ls", "--json"]).ok().stdout).expect("text");
            if listed.matches(r#""complete":true"#).count() >= objects {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "these do not become complete:\n{listed}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Mounts `image` on a new directory called `name`.
    #[track_caller]
    pub fn mount(&self, image: &str, name: &str, frontend: &str) -> PathBuf {
        let target = self.dir(name);
        self.run([
            OsStr::new("mount"),
            "--frontend".as_ref(),
            frontend.as_ref(),
            image.as_ref(),
            target.as_ref(),
        ])
        .ok();
        target
    }

    /// What `larder status --json` says.
    #[track_caller]
    pub fn status(&self) -> Value {
        self.run(["status", "--json"]).json()
    }

    /// The mount on `target` in the status.
    #[track_caller]
    pub fn mount_status(&self, target: &Path) -> Value {
        let status = self.status();
        let mounts = status["mounts"].as_array().expect("a list").clone();
        mounts
            .into_iter()
            .find(|mount| mount["path"].as_str() == target.to_str())
            .unwrap_or_else(|| panic!("{} is not in {status:#}", target.display()))
    }

    /// The id of the running worker.
    #[track_caller]
    pub fn worker(&self) -> i32 {
        pid(&self.status(), "worker").expect("a worker runs")
    }

    /// Why `frontend` cannot be tested here, if it cannot.
    pub fn cannot(&self, frontend: &str) -> Option<String> {
        let begun = Instant::now();
        loop {
            let outcome = self.run(["doctor", "--json"]);
            let findings: Value = serde_json::from_slice(&outcome.stdout).expect("the output is JSON");
            let listed = findings["frontends"].as_array().expect("a list");
            let finding = listed.iter().find(|one| one["frontend"] == frontend);
            let finding = finding.expect("every front end is listed");
            if finding["works"].as_bool().expect("yes or no") {
                return None;
            }
            let why = finding["reason"].to_string();
            // The daemon of the test before is still ending.
            if !why.contains("only one") || begun.elapsed() > Duration::from_secs(10) {
                return Some(why);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The log of the daemon, for messages of failed tests.
    pub fn log(&self) -> String {
        fs::read_to_string(self.root().join("state/daemon.log")).unwrap_or_default()
    }

    /// Ids of the daemon's processes that still live.
    pub fn processes(&self) -> Vec<i32> {
        let root = self.root();
        let entries = fs::read_dir("/proc").expect("proc is mounted");
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let is_ours = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut args = line.split(|byte| *byte == 0);
            let is_larder = args.next().is_some_and(|program| program.ends_with(b"larder"));
            is_larder && args.any(|arg| arg == root.as_os_str().as_encoded_bytes())
        };
        pids.filter(is_ours).collect()
    }

    /// Targets below the test's directory on which something is mounted.
    pub fn mounted(&self) -> Vec<PathBuf> {
        let info = fs::read_to_string("/proc/self/mountinfo").expect("proc is mounted");
        let points = info.lines().filter_map(|line| line.split(' ').nth(4));
        points.map(PathBuf::from).filter(|point| point.starts_with(self.temp.path())).collect()
    }

    fn clean_up(&self) {
        let is_running = self.root().join("run/larder.sock").exists() || !self.processes().is_empty();
        if is_running {
            let stopped = thread::scope(|scope| {
                scope.spawn(|| self.run(["daemon", "--stop", "--lazy"]).code == 0).join().unwrap_or(false)
            });
            if !stopped {
                self.end_processes();
            }
        }
        for point in self.mounted() {
            let _ = rustix::mount::unmount(&point, rustix::mount::UnmountFlags::DETACH);
        }
    }

    /// The last resort: ends the processes that have our root on their command line, keeper first.
    fn end_processes(&self) {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(10) {
            let processes = self.processes();
            if processes.is_empty() {
                return;
            }
            for pid in processes {
                kill(pid, Signal::KILL);
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Larder {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
        }
        self.clean_up();
    }
}

/// A process id of the status.
pub fn pid(status: &Value, which: &str) -> Option<i32> {
    i32::try_from(status[which]["pid"].as_i64()?).ok()
}

/// Sends a signal to a process of the daemon under test.
pub fn kill(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}
