//! `kill -9` of real workers under real mounts: this executable is keeper, worker and reader at once.
//!
//! It has a `main` of its own because a keeper must begin in a process with one thread.

#[path = "it/common/worker.rs"]
mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{Unmount, Worker, build, cannot, drop_caches, noise, scratch};
use larder_erofs::writer::{Attributes, Tree};
use larder_mount::keeper::{self, Client, Holder, Launch};
use larder_mount::{FrontEndKind, open};
use larder_ondemand::EngineConfig;
use rustix::process::{Pid, Signal, kill_process};

const READERS: usize = 8;
const FILE_BYTES: usize = 3 << 20;
/// A file that says that the first worker gets no metadata while it mounts.
const MOUNTS_SLOWLY: &str = "mounts-slowly";

fn main() {
    let mut args = std::env::args_os().skip(1);
    match args.next().as_ref().and_then(|word| word.to_str()) {
        Some("keeper") => keeper::main(args),
        Some("worker") => worker(Path::new(&args.next().unwrap()), args.next().unwrap().to_str().unwrap()),
        _ => tests(),
    }
}

fn tests() {
    for kind in FrontEndKind::ALL {
        for order in [Order::Worker, Order::KeeperFirst] {
            println!("test p4_readers_outlive_killed_workers ({kind}, {order:?})");
            p4_readers_outlive_killed_workers(kind, order);
            println!("test p4_readers_outlive_killed_workers ({kind}, {order:?}) ... ok");
        }
    }
    println!("test p4_a_worker_that_is_killed_while_it_mounts_makes_room_for_the_next");
    p4_a_worker_that_is_killed_while_it_mounts_makes_room_for_the_next();
    println!("test p4_a_worker_that_is_killed_while_it_mounts_makes_room_for_the_next ... ok");
}

fn worker(dir: &Path, kind: &str) {
    let number = std::env::var(keeper::FD_ENV).unwrap().parse().unwrap();
    let worker_argv = std::env::args_os().collect();
    let launch = Launch {
        program: "/proc/self/exe".into(),
        keeper_args: vec!["keeper".into()],
        worker_argv,
        stands_in: false,
    };
    let client = Client::connect(number, launch).unwrap();
    let holder: Arc<dyn Holder> = Arc::new(client.clone());
    // Without readahead by us every read waits for its own bytes, so that kills meet questions in hand.
    let config = EngineConfig { readahead_bytes_max: 0, ..EngineConfig::default() };
    let mut worker = Worker::with_engine(dir, holder, config);
    let is_first = client.restarts() == 0;
    let mounts_slowly = dir.join(MOUNTS_SLOWLY).exists();
    if mounts_slowly {
        let (_, metadata) = worker.bring_metadata(dir);
        *metadata.latency.lock().unwrap() = Duration::from_secs(if is_first { 3600 } else { 0 });
    }
    *worker.source.latency.lock().unwrap() = Duration::from_millis(20);
    let (holder, engine) = (Arc::clone(&worker.holder), Arc::clone(&worker.engine));
    let front_end = open(kind.parse().unwrap(), holder, engine, &dir.join("cache")).unwrap();
    if mounts_slowly && is_first {
        let (engine, dir) = (Arc::clone(&worker.engine), dir.to_owned());
        std::thread::spawn(move || {
            wait_for("the kernel's first question", || engine.readers_waiting() > 0);
            report(&dir, 0);
        });
    }
    let mounted = match is_first || mounts_slowly {
        true => front_end.mount(worker.spec.clone()).unwrap(),
        false => front_end.resume(worker.spec.clone()).unwrap(),
    };
    front_end.finish_resume();
    report(dir, client.restarts());
    wait_for("the end", || {
        if client.adoptions() > 0 && !dir.join("adopted").exists() {
            fs::write(dir.join("adopted"), "").unwrap();
        }
        dir.join("stop").exists()
    });
    mounted.unmount(true).unwrap();
    fs::write(dir.join("stopped"), "").unwrap();
    client.stop();
    drop((mounted, front_end));
    // Whatever is still asked of the source.
    worker.runtime.shutdown_background();
}

/// Says that the worker after so many others is ready to be killed.
fn report(dir: &Path, restarts: u64) {
    fs::write(dir.join("tmp"), std::process::id().to_string()).unwrap();
    fs::rename(dir.join("tmp"), dir.join(format!("worker-{restarts}"))).unwrap();
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what} did not come");
        std::thread::sleep(Duration::from_millis(2));
    }
}

struct Rig {
    dir: PathBuf,
    keeper: Child,
    _unmount: Unmount,
}

impl Rig {
    fn start(dir: &Path, kind: FrontEndKind) -> Self {
        let me = std::env::current_exe().unwrap();
        let keeper = Command::new(&me)
            .args(["keeper".as_ref(), "--".as_ref(), me.as_os_str(), "worker".as_ref(), dir.as_os_str()])
            .arg(kind.as_str())
            .spawn()
            .unwrap();
        Self { dir: dir.to_owned(), keeper, _unmount: Unmount(dir.join("mnt")) }
    }

    /// The process id of the worker after so many others.
    fn worker(&self, generation: usize) -> i32 {
        let path = self.dir.join(format!("worker-{generation}"));
        wait_for("a worker", || path.exists());
        fs::read_to_string(path).unwrap().parse().unwrap()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        fs::write(self.dir.join("stop"), "").unwrap();
        let start = Instant::now();
        while !self.dir.join("stopped").exists() && start.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

fn contents(n: usize) -> Vec<u8> {
    noise(FILE_BYTES, 7 + n as u64)
}

/// Who is killed first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Order {
    Worker,
    KeeperFirst,
}

fn p4_readers_outlive_killed_workers(kind: FrontEndKind, order: Order) {
    let temp = scratch();
    if cannot(kind, temp.path()) {
        return;
    }
    if matches!(kind, FrontEndKind::Fuse | FrontEndKind::FuseBlob) && std::env::var_os("LARDER_UML").is_some()
    {
        // Without a fast GUP the kernel looks for a fatal signal at every page that it copies for /dev/fuse, and gives
        // whoever waits for that request EIO (fuse_dev_do_read, fuse_dev_do_write).
        println!("skipped: User-Mode Linux ends what a killed FUSE daemon was copying with EIO");
        return;
    }
    let dir = temp.path().to_owned();
    let mut tree = Tree::new();
    for n in 0..READERS {
        tree.add_file(format!("file-{n}").as_bytes(), contents(n), &Attributes::default()).unwrap();
    }
    build(tree, &dir);
    let rig = Rig::start(&dir, kind);
    let worker = |generation: usize| rig.worker(generation);
    worker(0);
    let done = AtomicUsize::new(0);
    let kills = std::thread::scope(|scope| {
        for n in 0..READERS {
            let (dir, done) = (&dir, &done);
            scope.spawn(move || {
                let found = fs::read(dir.join("mnt").join(format!("file-{n}")));
                done.fetch_add(1, Ordering::Relaxed);
                let found = found.unwrap_or_else(|error| panic!("file-{n}: {error}"));
                assert!(found == contents(n), "file-{n} is wrong");
            });
        }
        let mut kills = 0;
        if order == Order::KeeperFirst {
            kill_process(Pid::from_child(&rig.keeper), Signal::KILL).unwrap();
            wait_for("another keeper", || dir.join("adopted").exists());
        }
        while done.load(Ordering::Relaxed) < READERS && kills < 5 {
            let number = worker(kills);
            std::thread::sleep(Duration::from_millis(15 + 17 * (kills as u64 % 3)));
            if done.load(Ordering::Relaxed) < READERS {
                kill_process(Pid::from_raw(number).unwrap(), Signal::KILL).unwrap();
                kills += 1;
            }
        }
        kills
    });
    println!("{kills} workers killed under {READERS} readers");
    assert!(kills > 0, "the readers were too fast for this test");
    worker(kills);
    drop_caches();
    for n in 0..READERS {
        let found = fs::read(dir.join("mnt").join(format!("file-{n}"))).unwrap();
        assert!(found == contents(n), "file-{n} is wrong when read again");
    }
    drop(rig);
    assert!(dir.join("stopped").exists(), "the last worker ended cleanly");
}

/// The kernel reads the superblock while it mounts, from a file that the dying worker serves.
fn p4_a_worker_that_is_killed_while_it_mounts_makes_room_for_the_next() {
    let temp = scratch();
    if cannot(FrontEndKind::FuseBlob, temp.path()) {
        return;
    }
    let mut tree = Tree::new();
    tree.add_file(b"file", contents(0), &Attributes::default()).unwrap();
    build(tree, temp.path());
    fs::write(temp.path().join(MOUNTS_SLOWLY), "").unwrap();
    let rig = Rig::start(temp.path(), FrontEndKind::FuseBlob);
    kill_process(Pid::from_raw(rig.worker(0)).unwrap(), Signal::KILL).unwrap();
    rig.worker(1);
    assert!(fs::read(temp.path().join("mnt/file")).unwrap() == contents(0));
    drop(rig);
    assert!(temp.path().join("stopped").exists(), "the last worker ended cleanly");
}
