//! The daemon as a service: what it tells the manager, what the manager keeps for it, and the watchdog.
//!
//! The manager is a socket of the test's own. What it does is systemd's part, after sd_notify(3), sd_listen_fds(3) and
//! sd_watchdog_enabled(3).

use std::collections::BTreeMap;
use std::fs;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt as _, FdMapping};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::Signal;

use crate::support::daemon::{kill, pid};
use crate::support::program::User;
use crate::support::{self, Image, Larder, skip, tree};

/// What the unit file says, only shorter.
const WATCHDOG: Duration = Duration::from_secs(2);

/// What the manager tells itself.
const LAST_WORD: &str = "STATUS=all of the service are dead";

/// Descriptors of a service begin here: `SD_LISTEN_FDS_START` of sd_listen_fds(3).
const FIRST_PASSED: i32 = 3;

/// What the daemon has told its manager.
#[derive(Default)]
struct Told {
    states: Vec<String>,
    store: Vec<(String, OwnedFd)>,
}

/// A service manager with one service.
struct Manager<'a> {
    larder: &'a Larder,
    socket: PathBuf,
    told: Arc<Mutex<Told>>,
    service: Option<Child>,
}

impl<'a> Manager<'a> {
    fn new(larder: &'a Larder) -> Self {
        let socket = larder.path("notify");
        let ours = UnixDatagram::bind(&socket).expect("a socket");
        let told = Arc::new(Mutex::new(Told::default()));
        let listening = Arc::downgrade(&told);
        ours.set_read_timeout(Some(Duration::from_millis(100))).expect("a socket");
        thread::spawn(move || {
            while let Some(told) = listening.upgrade() {
                if let Some((state, fd)) = receive(&ours) {
                    told.lock().unwrap_or_else(PoisonError::into_inner).take(&state, fd);
                }
            }
        });
        Self { larder, socket, told, service: None }
    }

    /// Which sockets lie below the test's directory: two on one path would mean that one was replaced.
    fn sockets(&self) -> String {
        let all = fs::read_to_string("/proc/net/unix").unwrap_or_default();
        let root = self.larder.root().display().to_string();
        let ours: Vec<&str> = all.lines().filter(|line| line.contains(&root)).collect();
        format!("sockets:\n{}\nprocesses: {:?}", ours.join("\n"), self.larder.processes())
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the service, with whatever is in its store, and waits until it says that it is ready.
    fn start(&mut self) {
        let mut told = self.told();
        told.states.clear();
        let mapping = |(child_fd, (_, fd)): (i32, &(String, OwnedFd))| FdMapping {
            parent_fd: fd.try_clone().expect("a descriptor"),
            child_fd,
        };
        let passed: Vec<FdMapping> = (FIRST_PASSED..).zip(&told.store).map(mapping).collect();
        let count = passed.len();
        let names: Vec<&str> = told.store.iter().map(|(name, _)| &**name).collect();
        let mut command = Command::new("sh");
        // Only the process itself knows its number before it begins.
        command.args(["-c", "LISTEN_PID=$$ exec \"$@\"", "sh"]);
        command.arg(support::program::binary()).arg("--root").arg(self.larder.root()).arg("daemon");
        command.env("NOTIFY_SOCKET", &self.socket).env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
        if count > 0 {
            command.env("LISTEN_FDS", count.to_string()).env("LISTEN_FDNAMES", names.join(":"));
            // Readers wait for it: what the environment or the configuration has is no reason not to start.
            command.env("LARDER_LOG", "larder=loud").env("LARDER_START_LIMIT", "3m");
            fs::write(self.larder.root().join("config.toml"), "[chache").expect("a file");
        }
        let log = fs::File::create(self.larder.path("service.log")).expect("a file");
        command.fd_mappings(passed).expect("each has a place of its own");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("a shell");
        // It has copies of what it passes on.
        drop(command);
        drop(told);
        self.service = Some(child);
        self.wait_until_told("READY=1");
    }

    /// Waits until the daemon says `word` from now on.
    #[track_caller]
    fn wait_for(&self, word: &str) {
        self.told().states.clear();
        self.wait_until_told(word);
    }

    #[track_caller]
    fn wait_until_told(&self, word: &str) {
        let begun = Instant::now();
        while !self.told().states.iter().any(|state| state.lines().any(|line| line == word)) {
            let log = fs::read_to_string(self.larder.path("service.log")).unwrap_or_default();
            assert!(begun.elapsed() < Duration::from_secs(30), "{word} does not come:\n{log}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Kills every process of the service at once, as the end of a control group does, and takes what they had said.
    fn kill_all(&mut self) {
        let mut service = self.service.take().expect("it runs");
        // One after the other, the worker would see the keeper die and start another one.
        let keeper = i32::try_from(service.id()).expect("a process");
        let workers: Vec<i32> = self.larder.processes().into_iter().filter(|pid| *pid != keeper).collect();
        workers.iter().for_each(|pid| kill(*pid, Signal::STOP));
        service.kill().expect("a child");
        service.wait().expect("a child");
        workers.iter().for_each(|pid| kill(*pid, Signal::KILL));
        let begun = Instant::now();
        while !self.larder.processes().is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(20), "they were killed");
            thread::sleep(Duration::from_millis(5));
        }
        self.hear_all();
    }

    /// A manager hears what was sent before it hears of the end.
    fn hear_all(&self) {
        let ours = UnixDatagram::unbound().expect("a socket");
        ours.send_to(LAST_WORD.as_bytes(), &self.socket).expect("the manager listens");
        self.wait_until_told(LAST_WORD);
    }
}

impl Drop for Manager<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.sockets());
        }
        if let Some(mut service) = self.service.take() {
            self.larder.processes().into_iter().for_each(|pid| kill(pid, Signal::KILL));
            let _ = service.kill();
            let _ = service.wait();
        }
        if thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.larder.path("service.log")).unwrap_or_default());
        }
    }
}

impl Told {
    fn take(&mut self, state: &str, fd: Option<OwnedFd>) {
        let fields: BTreeMap<&str, &str> = state.lines().filter_map(|line| line.split_once('=')).collect();
        let name = fields.get("FDNAME").copied().unwrap_or_default();
        if fields.contains_key("FDSTOREREMOVE") {
            self.store.retain(|(stored, _)| stored != name);
        }
        if fields.contains_key("FDSTORE") {
            assert_eq!(fields.get("FDPOLL"), Some(&"0"), "{state}");
            self.store.push((name.to_owned(), fd.expect("a descriptor")));
        }
        self.states.push(state.to_owned());
    }
}

fn receive(socket: &UnixDatagram) -> Option<(String, Option<OwnedFd>)> {
    let mut bytes = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut iov = [IoSliceMut::new(&mut bytes)];
    let got = recvmsg(socket, &mut iov, &mut control, RecvFlags::CMSG_CLOEXEC).ok()?.bytes;
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Some((String::from_utf8(bytes[..got].to_vec()).expect("text"), fd))
}

#[test]
fn p4_a_worker_without_a_sign_of_life_is_replaced_and_the_keeper_answers_for_itself() {
    let larder = Larder::new(User::Same);
    let mut manager = Manager::new(&larder);
    manager.start();
    let first = larder.worker();
    let begun = Instant::now();
    while begun.elapsed() < WATCHDOG * 2 {
        manager.wait_for("WATCHDOG=1");
    }
    assert_eq!(larder.worker(), first, "a worker that gives signs of life stays");
    kill(first, Signal::STOP);
    manager.wait_for("READY=1");
    assert_ne!(larder.worker(), first);
    manager.wait_for("WATCHDOG=1");
    let keeper = pid(&larder.status(), "keeper").expect("a keeper");
    assert_eq!(
        keeper.unsigned_abs(),
        manager.service.as_ref().expect("it runs").id(),
        "the service's first process"
    );
    assert!(!manager.told().store.is_empty(), "the control socket at least");
    manager.told().states.clear();
    kill(keeper, Signal::TERM);
    manager.wait_until_told("EXTEND_TIMEOUT_USEC=90000000");
    manager.wait_until_told("STOPPING=1");
    assert!(manager.service.take().expect("it runs").wait().expect("a child").success());
    manager.hear_all();
    let left: Vec<String> = manager.told().store.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(left, Vec::<String>::new(), "a manager that keeps them beyond the end has nothing to keep");
}

/// Both at once, which without a manager nothing survives.
#[test]
fn p4_readers_do_not_notice_the_death_of_a_service_whose_descriptors_the_manager_keeps() {
    for frontend in support::FRONT_ENDS {
        let test = format!("p4_readers_do_not_notice_the_death_of_a_service ({frontend})");
        let larder = Larder::new(User::Same);
        if let Some(why) = larder.cannot(frontend) {
            skip(&test, &why);
            continue;
        }
        if let Some(why) = support::cannot_replace(frontend, true) {
            skip(&test, why);
            continue;
        }
        let source = larder.dir("source");
        for n in 0..8 {
            fs::write(source.join(format!("file-{n}")), tree::noise(n, 1 << 20)).expect("a file");
        }
        let image = Image::build(&larder, &source, "layout");
        image.registry.set_bandwidth(2 << 20);
        // Whoever takes this cache for one of the usual name does not open it.
        fs::create_dir_all(larder.root()).expect("a directory");
        fs::write(larder.root().join("config.toml"), "[cache]\ntag = \"fast\"\n").expect("a file");
        let mut manager = Manager::new(&larder);
        manager.start();
        let target = larder.mount(&image.reference(), "mnt", frontend);
        // A process of its own: whatever this one starts closes the reader's files, and would wait for a daemon that it
        // is to become.
        let mut reader = Command::new("diff").arg("-r").args([&source, &target]).spawn().expect("diffutils");
        for _ in 0..3 {
            thread::sleep(Duration::from_millis(500));
            assert!(reader.try_wait().expect("a child").is_none(), "make the link slower");
            manager.kill_all();
            manager.start();
        }
        let begun = Instant::now();
        while reader.try_wait().expect("a child").is_none() {
            assert!(begun.elapsed() < Duration::from_secs(60), "{test}: the reader does not end");
            thread::sleep(Duration::from_millis(20));
        }
        assert!(reader.wait().expect("a child").success(), "{test}: other bytes, or an error");
        let mount = larder.mount_status(&target);
        assert!(mount["last_error"].is_null(), "{mount:#}");
        larder.run(["umount".as_ref(), target.as_os_str()]).ok();
        let left = manager.told().store.iter().filter(|(name, _)| name.contains(frontend)).count();
        assert!(left <= 3, "{left} descriptors of {frontend} after the unmount");
    }
}
