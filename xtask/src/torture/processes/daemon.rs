//! [`Daemon`]: the program in a root of its own, driven by its command line and by signals.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::super::patience::Patience;
use super::super::violation::{Kind, Violation};
use super::hang;

/// The front ends through which rounds mount an image, where they work.
pub const FRONT_ENDS: [&str; 3] = ["fanotify", "fuse-blob", "fuse"];

/// What counts as a front end of its own: a tree, mounted through `fuse`.
pub const TREE: &str = "tree";

/// What a command, or the recovery from a death, may take at most.
const DEADLINE: Duration = Duration::from_secs(60);

/// How often a command that a fault has hit is tried again.
const TRIES_MAX: u32 = 10;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// Lines of the log that a report of a violation shows.
const LOG_LINES: usize = 60;

/// The program with its root.
pub struct Daemon {
    binary: PathBuf,
    root: PathBuf,
    plan: String,
    clock_ahead: u32,
}

/// What became of a command.
struct Outcome {
    ok: bool,
    stdout: Vec<u8>,
    stderr: String,
}

/// The front ends that work here.
pub fn front_ends(binary: &Path, dir: &Path) -> anyhow::Result<Vec<&'static str>> {
    let daemon = Daemon::new(binary, &dir.join("root"), "");
    let found: Value =
        serde_json::from_slice(&daemon.run(["doctor", "--json"])?.stdout).context("larder doctor")?;
    let mut works = Vec::new();
    for name in FRONT_ENDS {
        let about =
            found["frontends"].as_array().into_iter().flatten().find(|about| about["frontend"] == name);
        match about {
            Some(about) if about["works"] == true => works.push(name),
            Some(about) => eprintln!("torture: without {name}: {}", about["reason"]),
            None => anyhow::bail!("larder doctor does not know {name}"),
        }
    }
    anyhow::ensure!(!works.is_empty(), "no front end works here");
    Ok(works)
}

/// Whether this host and user can give a process clocks of its own.
pub fn try_time() -> anyhow::Result<()> {
    let output = Command::new("unshare").args(["--time", "--fork", "--boottime", "1", "true"]).output()?;
    anyhow::ensure!(output.status.success(), "unshare: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

impl Daemon {
    /// A daemon to be, with this plan for its fault points.
    pub fn new(binary: &Path, root: &Path, plan: &str) -> Self {
        Self { binary: binary.to_owned(), root: root.to_owned(), plan: plan.to_owned(), clock_ahead: 0 }
    }

    /// Whether it has clocks of its own.
    pub fn has_other_time(&self) -> bool {
        self.clock_ahead > 0
    }

    /// The same with clocks of its own, so many seconds ahead: in a time namespace, which has no other time of day.
    pub fn with_clock_ahead(self, clock_ahead: u32) -> Self {
        Self { clock_ahead, ..self }
    }

    /// Empties the cache. Only while no daemon runs.
    pub fn wipe(&self) -> anyhow::Result<()> {
        let cache = self.root.join("cache");
        if cache.exists() {
            fs::remove_dir_all(&cache).with_context(|| cache.display().to_string())?;
        }
        Ok(())
    }

    /// Where anything may be mounted.
    pub fn targets(&self) -> impl Iterator<Item = PathBuf> {
        FRONT_ENDS.into_iter().chain([TREE]).map(|front_end| self.target(front_end))
    }

    /// Where a front end mounts.
    pub fn target(&self, front_end: &str) -> PathBuf {
        self.root.with_file_name(format!("mnt-{front_end}"))
    }

    /// The cache's directory.
    pub fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// Starts it with its plan.
    pub fn start(&self) -> Result<(), Violation> {
        let mut said = String::new();
        for _ in 0..TRIES_MAX {
            let mut command = self.in_its_time(self.command(["daemon", "--detach"]));
            if !self.plan.is_empty() {
                command.env(larder_faults::ENV, &self.plan);
            }
            let outcome = within_deadline(command, "larder daemon --detach")?;
            if outcome.ok {
                return Ok(());
            }
            said = outcome.stderr;
            if self.comes_up_alone()? {
                return Ok(());
            }
        }
        Err(Violation::new(Kind::Error, format!("the daemon does not start: {said}")))
    }

    /// Whether a daemon comes up that nobody waits for any more: a worker whose keeper died first makes another one.
    fn comes_up_alone(&self) -> Result<bool, Violation> {
        let mut answers = false;
        let settled = || {
            answers = self.status()?.is_ok();
            Ok(answers || self.processes().is_empty())
        };
        self.until(settled, || hang("a daemon neither comes up nor ends"))?;
        Ok(answers)
    }

    /// Mounts an image or a tree, and tries again when a fault hits; returns how often it tried.
    pub fn mount(&self, address: &str, front_end: &str) -> Result<u32, Violation> {
        let target = self.target(front_end);
        let mut said = String::new();
        for tried in 1..=TRIES_MAX {
            // A target that is mounted already need not be made.
            drop(fs::create_dir_all(&target));
            let through = if front_end == TREE { "fuse" } else { front_end };
            let args = [
                "mount".as_ref(),
                "--frontend".as_ref(),
                through.as_ref(),
                address.as_ref(),
                target.as_os_str(),
            ];
            let outcome = self.run(args)?;
            if outcome.ok {
                return Ok(tried);
            }
            said = outcome.stderr;
            self.settle()?;
            if self.lists(&target)? {
                // The worker died when it had mounted and before it could say so; its successor has taken the mount up.
                return Ok(tried);
            }
            self.until(
                || Ok(!is_mounted(&target)),
                || {
                    Violation::new(
                        Kind::Leak,
                        format!("{} is mounted, and the daemon does not know it: {said}", target.display()),
                    )
                },
            )?;
        }
        Err(Violation::new(Kind::Error, format!("{front_end} does not mount: {said}")))
    }

    /// Unmounts what a front end has mounted, and tries again when a fault hits.
    pub fn unmount(&self, front_end: &str) -> Result<(), Violation> {
        let target = self.target(front_end);
        let mut said = String::new();
        for _ in 0..TRIES_MAX {
            let outcome = self.run(["umount".as_ref(), "--lazy".as_ref(), target.as_os_str()])?;
            if outcome.ok {
                return self.is_gone(&target);
            }
            said = outcome.stderr;
            self.settle()?;
            if !self.lists(&target)? {
                return self.is_gone(&target);
            }
        }
        Err(Violation::new(Kind::Error, format!("{front_end} does not unmount: {said}")))
    }

    fn is_gone(&self, target: &Path) -> Result<(), Violation> {
        self.until(
            || Ok(!is_mounted(target)),
            || Violation::new(Kind::Leak, format!("{} is still mounted", target.display())),
        )
    }

    /// Waits until a worker and a keeper answer.
    pub fn settle(&self) -> Result<Value, Violation> {
        let mut patience = Patience::new(DEADLINE);
        loop {
            match self.status()? {
                Ok(status) => return Ok(status),
                Err(said) if patience.is_over() => {
                    return Err(hang(format!("the daemon does not answer: {said}")));
                }
                Err(_) => sleep(LOOK),
            }
        }
    }

    /// What a worker with a keeper answers, or what is said instead.
    fn status(&self) -> Result<Result<Value, String>, Violation> {
        let outcome = self.run(["status", "--json"])?;
        let status: Option<Value> = serde_json::from_slice(&outcome.stdout).ok().filter(|_| outcome.ok);
        Ok(status.filter(|status| status["keeper"].is_object()).ok_or(outcome.stderr))
    }

    fn lists(&self, target: &Path) -> Result<bool, Violation> {
        let status = self.settle()?;
        let mut mounts = status["mounts"].as_array().into_iter().flatten();
        Ok(mounts.any(|mount| mount["path"].as_str() == target.to_str()))
    }

    /// Kills the worker, wherever it is in its life.
    pub fn kill_worker(&self) -> Result<(), Violation> {
        let mut worker = None;
        self.until(
            || {
                worker = self.worker();
                Ok(worker.is_some())
            },
            || hang("no worker runs"),
        )?;
        signal(worker, Signal::KILL);
        Ok(())
    }

    /// Kills the keeper of a worker that has everything, and waits until that worker has made another one.
    pub fn kill_keeper(&self) -> Result<(), Violation> {
        let keeper =
            |status: &Value| status["keeper"]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        let old = keeper(&self.settle()?);
        signal(old, Signal::KILL);
        let renewed = || self.settle().map(|status| keeper(&status) != old);
        self.until(renewed, || hang("the worker makes no new keeper"))
    }

    /// Has the worker replaced.
    pub fn upgrade(&self) -> Result<(), Violation> {
        let status = self.settle()?;
        signal(status["worker"]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()), Signal::HUP);
        Ok(())
    }

    /// Has `program` take over; says what kept it from that.
    pub fn replace(&self, program: &Path) -> Result<Result<(), String>, Violation> {
        let mut command = Command::new(program);
        command.arg("--root").arg(&self.root).args(["daemon", "--replace"]).env_remove(larder_faults::ENV);
        let words = format!("{command:?}");
        let outcome = within_deadline(command, &words)?;
        self.settle()?;
        Ok(if outcome.ok { Ok(()) } else { Err(outcome.stderr) })
    }

    /// Stops the daemon and waits for the end of its processes.
    pub fn stop(&self) -> Result<(), Violation> {
        let mut said = String::new();
        for _ in 0..TRIES_MAX {
            if self.processes().is_empty() {
                return Ok(());
            }
            said = self.run(["daemon", "--stop", "--lazy"])?.stderr;
            let began = Instant::now();
            while !self.processes().is_empty() && began.elapsed() < DEADLINE / TRIES_MAX {
                sleep(LOOK);
            }
        }
        let left = self.processes().len();
        Err(Violation::new(Kind::Leak, format!("{left} processes live on after the daemon's end: {said}")))
    }

    /// Ends whatever there is, however it is.
    pub fn end_everything(&self) {
        let began = Instant::now();
        while !self.processes().is_empty() && began.elapsed() < DEADLINE {
            self.processes().into_iter().for_each(|pid| signal(Some(pid), Signal::KILL));
            sleep(LOOK);
        }
        for target in self.targets() {
            while is_mounted(&target) && unmount(&target, UnmountFlags::DETACH).is_ok() {}
        }
    }

    /// The process that does the work.
    pub fn worker(&self) -> Option<i32> {
        self.processes().into_iter().find(|pid| arguments(*pid).get(1).is_none_or(|first| first != b"keeper"))
    }

    /// The process that keeps.
    pub fn keeper(&self) -> Option<i32> {
        self.processes()
            .into_iter()
            .find(|pid| arguments(*pid).get(1).is_some_and(|first| first == b"keeper"))
    }

    /// Ids of keeper and worker.
    pub fn processes(&self) -> Vec<i32> {
        let root = self.root.as_os_str().as_encoded_bytes();
        let is_ours = |pid: &i32| {
            let line = arguments(*pid);
            line.iter().any(|part| part == root) && line.iter().any(|part| part == b"worker")
        };
        let entries = fs::read_dir("/proc").into_iter().flatten();
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).filter(is_ours).collect()
    }

    /// The end of the daemon's log.
    pub fn log(&self) -> String {
        let log = fs::read_to_string(self.root.join("state/daemon.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    /// Waits until `done`.
    fn until(
        &self,
        mut done: impl FnMut() -> Result<bool, Violation>,
        otherwise: impl FnOnce() -> Violation,
    ) -> Result<(), Violation> {
        let mut patience = Patience::new(DEADLINE);
        while !done()? {
            if patience.is_over() {
                return Err(otherwise());
            }
            sleep(LOOK);
        }
        Ok(())
    }

    fn run<I>(&self, args: I) -> Result<Outcome, Violation>
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        let command = self.command(args);
        let words = format!("{command:?}");
        within_deadline(command, &words)
    }

    fn in_its_time(&self, command: Command) -> Command {
        if self.clock_ahead == 0 {
            return command;
        }
        let ahead = self.clock_ahead.to_string();
        let mut inside = Command::new("unshare");
        inside.args(["--time", "--fork", "--monotonic", &ahead, "--boottime", &ahead]);
        inside.arg(command.get_program()).args(command.get_args()).env_remove(larder_faults::ENV);
        inside
    }

    fn command<I>(&self, args: I) -> Command
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        let mut command = Command::new(&self.binary);
        command.arg("--root").arg(&self.root).args(args).env_remove(larder_faults::ENV);
        command
    }
}

/// Runs a command; one that does not end is a hang.
fn within_deadline(mut command: Command, words: &str) -> Result<Outcome, Violation> {
    let failed = |error: &dyn std::fmt::Display| Violation::new(Kind::Error, format!("{words}: {error}"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| failed(&error))?;
    let mut patience = Patience::new(DEADLINE);
    // What these commands print fits into a pipe.
    while child.try_wait().map_err(|error| failed(&error))?.is_none() {
        if patience.is_over() {
            drop(child.kill());
            drop(child.wait());
            return Err(hang(format!("{words}: not done after {DEADLINE:?}")));
        }
        sleep(Duration::from_millis(2));
    }
    let output = child.wait_with_output().map_err(|error| failed(&error))?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok(Outcome { ok: output.status.success(), stdout: output.stdout, stderr })
}

fn arguments(pid: i32) -> Vec<Vec<u8>> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
}

fn signal(pid: Option<i32>, signal: Signal) {
    if let Some(pid) = pid.and_then(Pid::from_raw) {
        // It may have ended by itself.
        let _ = kill_process(pid, signal);
    }
}

/// Whether something is mounted on `target`, without touching it.
pub fn is_mounted(target: &Path) -> bool {
    let info = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    info.lines().any(|line| line.split(' ').nth(4).is_some_and(|point| Path::new(point) == target))
}
