//! [`Scratch`]: what the demo has put on this machine, and how it goes away again.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{
    Pid, Signal, WaitOptions, kill_process, kill_process_group, test_kill_process, waitpid,
};

use crate::api::client::Client;
use crate::api::types::StopRequest;
use crate::output;
use crate::paths::Paths;
use crate::runtime;

/// How long the daemon may take to end.
const STOP_DEADLINE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(20);
/// Tries to remove the directory.
const REMOVALS_MAX: usize = 20;

/// What the demo has put on this machine. Clones are the same; [`clear`](Self::clear) takes everything away.
#[derive(Clone, Debug)]
pub struct Scratch {
    directory: PathBuf,
    keep: bool,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    daemon: Option<Paths>,
    daemon_pids: Vec<Pid>,
    target: Option<PathBuf>,
    program: Option<Pid>,
    cleared: bool,
}

impl State {
    fn refuse_when_cleared(&self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.cleared, "interrupted");
        Ok(())
    }
}

impl Scratch {
    /// Takes care of `directory`; with `keep` its files stay, but nothing runs or is mounted.
    pub fn new(directory: PathBuf, keep: bool) -> Self {
        Self { directory, keep, state: Arc::default() }
    }

    /// A path inside.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Makes a directory inside.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn make_dir(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.path(name);
        fs::create_dir(&path).with_context(|| format!("{}: cannot be created", path.display()))?;
        Ok(path)
    }

    /// Starts a daemon, which will serve `paths` and mount on `target`.
    ///
    /// Clearing waits until `start` has ended: it must not look for a daemon that is about to come.
    ///
    /// # Errors
    ///
    /// What `start` says, or that everything is being taken away already.
    pub fn start_daemon<T>(
        &self,
        paths: &Paths,
        target: &Path,
        start: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.refuse_when_cleared()?;
        state.daemon = Some(paths.clone());
        state.target = Some(target.to_owned());
        start()
    }

    /// These processes are the daemon's.
    pub fn daemon_pids(&self, pids: impl IntoIterator<Item = u32>) {
        let pids: Vec<Pid> =
            pids.into_iter().filter_map(|pid| i32::try_from(pid).ok()).filter_map(Pid::from_raw).collect();
        self.with(|state| state.daemon_pids = pids);
    }

    /// Starts the program as the leader of a process group.
    ///
    /// # Errors
    ///
    /// What the kernel says, or that everything is being taken away already.
    pub fn start_program(&self, command: &mut Command) -> anyhow::Result<Child> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.refuse_when_cleared()?;
        let child = command.process_group(0).spawn()?;
        state.program = Some(Pid::from_child(&child));
        Ok(child)
    }

    /// The program has ended.
    pub fn program_ended(&self) {
        self.with(|state| state.program = None);
    }

    fn with(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Stops the daemon: it unmounts everything first.
    ///
    /// # Errors
    ///
    /// When something of it is left.
    pub fn stop_daemon(&self) -> anyhow::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        stop_daemon(&mut state)
    }

    /// Ends the program, stops the daemon, removes the directory. A second call does nothing.
    ///
    /// # Errors
    ///
    /// When something is left; the rest has been taken away nevertheless.
    pub fn clear(&self) -> anyhow::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut state.cleared, true) {
            return Ok(());
        }
        if let Some(group) = state.program.take() {
            // It may have ended by itself.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let stopped = stop_daemon(&mut state);
        if self.keep {
            output::note(format!("kept: {}", self.directory.display()));
            return stopped;
        }
        // Never through a mount: what is in there is not ours.
        stopped?;
        remove(&self.directory)
    }
}

fn stop_daemon(state: &mut State) -> anyhow::Result<()> {
    let Some(paths) = state.daemon.take() else { return Ok(()) };
    let client = Client::new(&paths);
    let asked = runtime::for_command()?.block_on(async {
        if state.daemon_pids.is_empty() && client.is_running().await {
            let status = client.status().await?;
            let pids = [status.keeper.map(|keeper| keeper.pid), Some(status.worker.pid)];
            let pids = pids.into_iter().flatten().filter_map(|pid| i32::try_from(pid).ok());
            state.daemon_pids = pids.filter_map(Pid::from_raw).collect();
        }
        if client.is_running().await { client.stop(&StopRequest { lazy: true }).await } else { Ok(()) }
    });
    let begun = Instant::now();
    while asked.is_ok() && state.daemon_pids.iter().any(lives) && begun.elapsed() < STOP_DEADLINE {
        std::thread::sleep(PAUSE);
    }
    // The keeper comes first in the list: it would start the worker again.
    for pid in state.daemon_pids.drain(..).filter(lives) {
        output::note(format!(
            "warning: the daemon's process {} did not stop: it is killed",
            pid.as_raw_nonzero()
        ));
        let _ = kill_process(pid, Signal::KILL);
    }
    match state.target.take() {
        Some(target) => detach(&target).and(asked),
        None => asked,
    }
}

/// Whether the process still runs. The keeper is our child: until somebody asks how it ended, it seems to live.
fn lives(pid: &Pid) -> bool {
    let ended = waitpid(Some(*pid), WaitOptions::NOHANG).is_ok_and(|status| status.is_some());
    !ended && test_kill_process(*pid).is_ok()
}

/// Detaches what is still mounted on `target`.
fn detach(target: &Path) -> anyhow::Result<()> {
    if !is_mounted(target) {
        return Ok(());
    }
    if unmount(target, UnmountFlags::DETACH).is_err() {
        // Without root only the helper of FUSE may.
        let fusermount =
            Command::new("fusermount3").args(["-u", "-z"]).arg(target).stderr(Stdio::null()).status();
        drop(fusermount);
    }
    anyhow::ensure!(!is_mounted(target), "{}: is still mounted", target.display());
    Ok(())
}

fn is_mounted(target: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().filter_map(|line| line.split(' ').nth(4)).any(|place| Path::new(place) == target)
}

/// Removes a tree of ours, in which directories may lack permission bits.
fn remove(directory: &Path) -> anyhow::Result<()> {
    // After a signal other threads may still be writing: what they add is removed with the next try.
    for _ in 0..REMOVALS_MAX {
        match fs::remove_dir_all(directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => open_up(directory),
            _ => return Ok(()),
        }
        std::thread::sleep(PAUSE);
    }
    fs::remove_dir_all(directory).with_context(|| format!("{}: cannot be removed", directory.display()))
}

fn open_up(directory: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    drop(fs::set_permissions(directory, fs::Permissions::from_mode(0o700)));
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn scratch(keep: bool) -> (tempfile::TempDir, Scratch) {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let directory = temp.path().join("demo");
        fs::create_dir(&directory).expect("a directory can be made");
        (temp, Scratch::new(directory, keep))
    }

    #[test]
    fn everything_goes_even_from_directories_without_permissions() {
        let (_temp, scratch) = scratch(false);
        let inner = scratch.make_dir("locked").expect("a directory can be made");
        fs::write(inner.join("file"), "x").expect("a file can be written");
        fs::set_permissions(&inner, fs::Permissions::from_mode(0o000)).expect("its mode can be set");
        scratch.clear().expect("it can be removed");
        assert!(!scratch.path("").exists());
        scratch.clear().expect("a second time does nothing");
    }

    #[test]
    fn nothing_starts_once_everything_is_taken_away() {
        let (_temp, scratch) = scratch(false);
        scratch.clear().expect("there is little to do");
        scratch.start_program(&mut Command::new("true")).expect_err("it is too late");
        let paths = Paths::choose(Some(&scratch.path("root"))).expect("a short path is fine");
        let target = scratch.path("mnt");
        scratch.start_daemon(&paths, &target, || Ok(())).expect_err("it is too late");
    }

    #[test]
    fn what_is_to_be_kept_stays() {
        let (_temp, scratch) = scratch(true);
        scratch.make_dir("layout").expect("a directory can be made");
        scratch.clear().expect("nothing runs");
        assert!(scratch.path("layout").is_dir());
    }
}
