//! What must not be left: descriptors, threads and marks more than a healthy daemon has, mounts, processes, files.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::super::violation::{Kind, Violation};
use super::daemon::{Daemon, TREE, is_mounted};
use super::tree;

/// How long threads and connections may take to go after the last read.
const GRACE: Duration = Duration::from_secs(30);

/// Connections that may be kept for the next request, and threads of the pool that wait for work.
const SPARE_SOCKETS: usize = 40;
const SPARE_THREADS: usize = 64;

/// Ends of pipes: each thread that serves a FUSE has one, and the front end of images gets its threads when it has to refuse what
/// a tree left with the keeper.
fn spare_pipe_ends() -> usize {
    2 * std::thread::available_parallelism().map_or(1, usize::from).clamp(2, 4)
}

/// The list of detached mounts that somebody still read from: once there, it stays with the keeper, empty or not.
const SPARE_LISTS: usize = 1;

/// Objects of an image: the metadata and the data.
const OBJECTS: usize = 2;

/// The name of all of them.
const CACHE_FILES: &str = "files of the cache";

/// What a process holds, by name.
type Holdings = BTreeMap<String, usize>;

/// What healthy daemons hold, by set of mounts.
#[derive(Default)]
pub struct Usual(BTreeMap<String, Holdings>);

impl Usual {
    /// Remembers what a healthy daemon holds.
    pub fn learn(&mut self, mounts: &str, daemon: &Daemon) -> Result<(), Violation> {
        daemon.settle()?;
        let usual = self.0.entry(mounts.to_owned()).or_default();
        for (name, count) in holdings(daemon) {
            let most = usual.entry(name).or_default();
            *most = count.max(*most);
        }
        Ok(())
    }

    /// Waits until a daemon holds no more than a healthy one.
    ///
    /// # Errors
    ///
    /// What it holds more.
    pub fn compare(&self, mounts: &str, daemon: &Daemon) -> Result<(), Violation> {
        daemon.settle()?;
        let began = Instant::now();
        loop {
            let more = self.more(mounts, daemon);
            if more.is_empty() {
                return Ok(());
            }
            if began.elapsed() > GRACE {
                return Err(Violation::new(
                    Kind::Leak,
                    format!("with {mounts} mounted: {}", more.join(", ")),
                ));
            }
            sleep(Duration::from_millis(100));
        }
    }

    fn more(&self, mounts: &str, daemon: &Daemon) -> Vec<String> {
        let usual = self.0.get(mounts);
        // Which object has a live map depends on what was filled since it was opened, so that is not learned: the keeper has
        // at most one of each, the worker that and its own.
        let of_trees = if mounts.split('+').any(|mount| mount == TREE) { tree::OBJECTS } else { 0 };
        let objects = OBJECTS + of_trees;
        let limit = |name: &str| {
            let usual = usual.and_then(|usual| usual.get(name)).copied().unwrap_or(0);
            let spare = match name.rsplit(' ').next() {
                Some("memfd:larder-live-map") if name.starts_with("worker") => return 2 * objects,
                Some("memfd:larder-live-map") => return objects,
                Some("socket") => SPARE_SOCKETS,
                Some("threads") => SPARE_THREADS,
                Some("memfd:larder-erofs") => SPARE_LISTS,
                Some("pipe") if of_trees > 0 && name.starts_with("worker") => spare_pipe_ends(),
                _ => 0,
            };
            usual + spare
        };
        let held = holdings(daemon);
        let over = held.iter().filter(|(name, count)| **count > limit(name));
        over.map(|(name, count)| format!("{count} of {name} instead of {}", limit(name))).collect()
    }
}

/// After the end of a daemon nothing is left of it but the cache.
pub fn nothing_is_left(daemon: &Daemon) -> Result<(), Violation> {
    for target in daemon.targets() {
        if is_mounted(&target) {
            return Err(Violation::new(
                Kind::Leak,
                format!("{} is mounted without a daemon", target.display()),
            ));
        }
    }
    Ok(())
}

fn holdings(daemon: &Daemon) -> Holdings {
    let mut held = Holdings::new();
    let cache_mount = cache_mount(daemon);
    for (role, pid) in [("worker", daemon.worker()), ("keeper", daemon.keeper())] {
        let Some(pid) = pid else { continue };
        let mut count = |name: String, times| *held.entry(format!("{role}'s {name}")).or_default() += times;
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            let info = entry.path().to_string_lossy().replace("/fd/", "/fdinfo/");
            let info = fs::read_to_string(info).unwrap_or_default();
            if let Ok(link) = fs::read_link(entry.path()) {
                let link = link.to_string_lossy();
                // Opened by its handle while the kernel knew no path of it.
                let has_no_path = link == "/" && cache_mount.is_some() && mount_of(&info) == cache_mount;
                let class = if has_no_path { CACHE_FILES.to_owned() } else { class(&link, daemon) };
                count(class, 1);
            }
            count("marks".into(), info.lines().filter(|line| line.starts_with("fanotify ino:")).count());
        }
        count("threads".into(), fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count));
    }
    held
}

/// The number of the mount that the cache lies in.
fn cache_mount(daemon: &Daemon) -> Option<String> {
    let cache = File::open(daemon.cache()).ok()?;
    mount_of(&fs::read_to_string(format!("/proc/self/fdinfo/{}", cache.as_raw_fd())).ok()?)
}

/// The number of the mount of an open file, of which /proc says `info`; asking the file could wait for a dead worker.
fn mount_of(info: &str) -> Option<String> {
    let line = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?;
    Some(line.trim().to_owned())
}

/// What sort of thing a descriptor is, without what differs from one to the next.
fn class(link: &str, daemon: &Daemon) -> String {
    let cache = daemon.cache();
    match link {
        _ if link.starts_with("socket:") => "socket".into(),
        _ if link.starts_with("pipe:") => "pipe".into(),
        _ if link.starts_with("/memfd:") => {
            let name = link.trim_end_matches(" (deleted)");
            name.split_once('/').map_or(name, |(_, name)| name).to_owned()
        }
        _ if link.starts_with(&*cache.to_string_lossy()) => CACHE_FILES.into(),
        // Named by the mount's id. One that is deleted and still open is no such journal any more.
        _ if link.ends_with(".nodes") => "journal of nodes".into(),
        _ => link.to_owned(),
    }
}
