//! The keeper with real processes: this executable is the keeper, the worker and the test at once.
//!
//! It has a `main` of its own because a keeper must begin in a process with one thread.

use std::fs;
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use larder_mount::keeper::{self, Client, Holder, Launch};
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

fn main() {
    let mut args = std::env::args_os().skip(1);
    match args.next().as_ref().and_then(|word| word.to_str()) {
        Some("keeper") => keeper::main(args),
        Some("worker") => worker(Path::new(&args.next().unwrap()), args.next().unwrap().to_str().unwrap()),
        _ => tests(),
    }
}

fn tests() {
    let all: [(&str, fn()); 11] = [
        ("p4_what_is_kept_outlives_a_killed_worker", p4_what_is_kept_outlives_a_killed_worker),
        ("p1_a_keeper_that_cannot_write_lives_on", p1_a_keeper_that_cannot_write_lives_on),
        ("p4_a_killed_keeper_is_replaced_by_the_worker", p4_a_killed_keeper_is_replaced_by_the_worker),
        ("p4_only_what_a_manager_passes_is_taken_over", p4_only_what_a_manager_passes_is_taken_over),
        ("p4_another_program_takes_over_what_is_kept", p4_another_program_takes_over_what_is_kept),
        (
            "p4_a_program_that_does_not_serve_is_followed_by_the_one_before",
            p4_a_program_that_does_not_serve_is_followed_by_the_one_before,
        ),
        (
            "p4_a_program_that_hangs_before_it_serves_is_followed_by_the_one_before",
            p4_a_program_that_hangs_before_it_serves_is_followed_by_the_one_before,
        ),
        (
            "a_crash_loop_is_slowed_down_and_somebody_stands_in",
            a_crash_loop_is_slowed_down_and_somebody_stands_in,
        ),
        (
            "p3_a_stand_in_is_adopted_and_makes_way_for_the_worker_again",
            p3_a_stand_in_is_adopted_and_makes_way_for_the_worker_again,
        ),
        ("a_signal_for_the_keeper_reaches_the_worker", a_signal_for_the_keeper_reaches_the_worker),
        ("the_keeper_stays_under_four_megabytes", the_keeper_stays_under_four_megabytes),
    ];
    for (name, test) in all {
        println!("test {name}");
        test();
        println!("test {name} ... ok");
    }
}

/// A keeper under test; killed with its worker at the end.
struct Rig {
    dir: tempfile::TempDir,
    keeper: Child,
}

/// What a worker has written about itself.
#[derive(Debug)]
struct Report {
    worker: u32,
    keeper: u32,
    names: String,
    memo: String,
    mode: String,
}

impl Rig {
    fn start(mode: &str) -> Self {
        let me = std::env::current_exe().unwrap();
        Self::start_by(&mut Command::new(&me), mode)
    }

    /// Starts what `command` makes a keeper of, with arguments that it passes on.
    fn start_by(command: &mut Command, mode: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let me = std::env::current_exe().unwrap();
        let keeper = command
            .args(["keeper".as_ref(), "--".as_ref(), me.as_os_str(), "worker".as_ref()])
            .args([dir.path().as_os_str(), mode.as_ref()])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { dir, keeper }
    }

    /// Waits for the report named `name`.
    fn report(&self, name: &str) -> Report {
        let path = self.dir.path().join(name);
        wait_for(&format!("report {name}"), || path.exists());
        let text = fs::read_to_string(path).unwrap();
        let mut lines = text.lines().map(str::to_owned);
        let mut next = || lines.next().unwrap_or_default();
        let (worker, keeper) = (next().parse().unwrap(), next().parse().unwrap());
        Report { worker, keeper, names: next(), memo: next(), mode: next() }
    }

    /// Has the running worker make way for one with these arguments after the directory.
    fn replace(&self, program: &Path, mode: &str) {
        fs::write(self.dir.path().join("tmp-next"), format!("{}\n{mode}", program.display())).unwrap();
        fs::rename(self.dir.path().join("tmp-next"), self.dir.path().join("next")).unwrap();
    }

    fn ask_to_stop(&self) {
        fs::write(self.dir.path().join("stop"), "").unwrap();
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.ask_to_stop();
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what} did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn pid(number: u32) -> Pid {
    Pid::from_raw(number.cast_signed()).unwrap()
}

fn kill(number: u32) {
    kill_process(pid(number), Signal::KILL).unwrap();
}

fn is_gone(number: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
    test_kill_process(pid(number)).is_err() || stat.contains(") Z ")
}

/// The worker of these tests: keeps one memfd, reports, and ends when the file `stop` appears.
fn worker(dir: &Path, mode: &str) {
    let number = std::env::var(keeper::FD_ENV).unwrap().parse().unwrap();
    let worker_argv = std::env::args_os().collect();
    let stands_in = std::env::var_os(keeper::STAND_IN_ENV).is_some();
    let launch = Launch {
        program: "/proc/self/exe".into(),
        keeper_args: vec!["keeper".into()],
        worker_argv,
        stands_in,
    };
    let client = Client::connect(number, launch).unwrap();
    if !dir.exists() {
        // The test is over.
        return client.stop();
    }
    if let Ok(reason) = std::env::var(keeper::STAND_IN_ENV) {
        return stand_in(dir, &client, &reason);
    }
    let generation = client.restarts();
    let names = client.names().join(" ");
    let mut memo = String::new();
    match client.take("memo").unwrap() {
        Some(fd) => {
            let mut file = fs::File::from(fd);
            file.rewind().unwrap();
            file.read_to_string(&mut memo).unwrap();
        }
        None if mode == "keep" => {
            let mut file = fs::File::from(rustix::fs::memfd_create("memo", MemfdFlags::CLOEXEC).unwrap());
            file.write_all(b"written by the first worker").unwrap();
            client.keep("memo", file.as_fd()).unwrap();
            client.keep("dropped", file.as_fd()).unwrap();
            client.release("dropped");
            for n in 0..300 {
                client.keep(&format!("more/{n:03}"), file.as_fd()).unwrap();
            }
        }
        None => {}
    }
    let report = |name: &str| {
        let text = format!(
            "{}\n{}\n{names}\n{memo}\n{mode}\n",
            std::process::id(),
            client.keeper_pid().unwrap_or(0)
        );
        fs::write(dir.join("tmp"), text).unwrap();
        fs::rename(dir.join("tmp"), dir.join(name)).unwrap();
    };
    report(&format!("worker-{generation}"));
    if mode == "crash" && !dir.join("mended").exists() {
        if client.names().is_empty() {
            client.keep("crashed", fs::File::open(dir).unwrap().as_fd()).unwrap();
        }
        std::process::exit(3);
    }
    while mode == "hang" && dir.exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    client.ready();
    // The keeper may have been killed before this line.
    let mut adoptions = 0;
    while !dir.join("stop").exists() && dir.exists() {
        if client.adoptions() > adoptions {
            adoptions = client.adoptions();
            report(&format!("adopted-{adoptions}"));
        }
        if let Ok(next) = fs::read_to_string(dir.join("next")) {
            fs::remove_file(dir.join("next")).unwrap();
            let (program, mode) = next.split_once('\n').unwrap();
            let argv = [program.as_ref(), "worker".as_ref(), dir.as_os_str(), mode.as_ref()];
            client.set_program(&argv.map(std::ffi::OsStr::to_owned)).unwrap();
            std::process::exit(75);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    client.stop();
}

fn p4_what_is_kept_outlives_a_killed_worker() {
    let mut rig = Rig::start("keep");
    let first = rig.report("worker-0");
    assert_eq!((first.names.as_str(), first.keeper), ("", rig.keeper.id()));
    kill(first.worker);
    let second = rig.report("worker-1");
    assert_ne!(second.worker, first.worker);
    assert!(second.names.starts_with("memo more/000 more/001"), "{}", second.names);
    assert_eq!(second.names.split(' ').count(), 301, "everything kept, nothing released");
    assert_eq!(second.memo, "written by the first worker");
    kill(second.worker);
    let third = rig.report("worker-2");
    rig.ask_to_stop();
    wait_for("the end of the keeper", || rig.keeper.try_wait().unwrap().is_some());
    assert!(rig.keeper.wait().unwrap().success(), "a clean stop ends the keeper");
    wait_for("the end of the worker", || is_gone(third.worker));
}

/// Its log lies on a disk that is full.
fn p1_a_keeper_that_cannot_write_lives_on() {
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec \"$@\" 2>/dev/full", "sh"]).arg(std::env::current_exe().unwrap());
    let rig = Rig::start_by(&mut shell, "keep");
    let first = rig.report("worker-0");
    kill(first.worker);
    let second = rig.report("worker-1");
    assert_eq!((second.keeper, second.memo.as_str()), (first.keeper, "written by the first worker"));
}

fn p4_a_killed_keeper_is_replaced_by_the_worker() {
    let mut rig = Rig::start("keep");
    let first = rig.report("worker-0");
    kill(rig.keeper.id());
    rig.keeper.wait().unwrap();
    let adopted = rig.report("adopted-1");
    assert_eq!(adopted.worker, first.worker, "the worker lives on");
    assert_ne!(adopted.keeper, first.keeper);
    kill(adopted.keeper);
    let again = rig.report("adopted-2");
    kill(again.worker);
    let second = rig.report("worker-1");
    assert_eq!((second.keeper, second.memo.as_str()), (again.keeper, "written by the first worker"));
    rig.ask_to_stop();
    wait_for("the end of both", || is_gone(second.worker) && is_gone(again.keeper));
}

/// The manager promises two and passes one: nothing that the keeper has opened itself is taken for the other one.
fn p4_only_what_a_manager_passes_is_taken_over() {
    let me = std::env::current_exe().unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-c", "LISTEN_PID=$$ exec \"$@\" 3</dev/null 4<&-", "sh"]).arg(me);
    shell.env("LISTEN_FDS", "2").env("LISTEN_FDNAMES", "passed:promised");
    let rig = Rig::start_by(&mut shell, "idle");
    assert_eq!(rig.report("worker-0").names, "passed");
}

fn p4_another_program_takes_over_what_is_kept() {
    let mut rig = Rig::start("keep");
    rig.report("worker-0");
    // A copy at a place of its own is another program.
    let program = rig.dir.path().join("program");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    rig.replace(&program, "second");
    let second = rig.report("worker-1");
    assert_eq!((second.mode.as_str(), second.memo.as_str()), ("second", "written by the first worker"));
    assert_eq!(fs::read_link(format!("/proc/{}/exe", second.worker)).unwrap(), program);
    kill(second.worker);
    assert_eq!(rig.report("worker-2").mode, "second", "later workers have the new command line");
    kill(rig.keeper.id());
    rig.keeper.wait().unwrap();
    let adopted = rig.report("adopted-1");
    // The new keeper counts from the beginning.
    fs::remove_file(rig.dir.path().join("worker-1")).unwrap();
    kill(adopted.worker);
    let last = rig.report("worker-1");
    assert_eq!(last.mode, "second", "a new keeper has the new command line");
    rig.ask_to_stop();
    wait_for("the end of both", || is_gone(last.worker) && is_gone(last.keeper));
}

fn p4_a_program_that_does_not_serve_is_followed_by_the_one_before() {
    let rig = Rig::start("keep");
    rig.report("worker-0");
    rig.replace(&rig.dir.path().join("nothing"), "second");
    let second = rig.report("worker-2");
    assert_eq!((second.mode.as_str(), second.memo.as_str()), ("keep", "written by the first worker"));
    rig.replace(&std::env::current_exe().unwrap(), "crash");
    assert_eq!(rig.report("worker-3").mode, "crash");
    let fourth = rig.report("worker-4");
    assert_eq!((fourth.mode.as_str(), fourth.memo.as_str()), ("keep", "written by the first worker"));
}

fn p4_a_program_that_hangs_before_it_serves_is_followed_by_the_one_before() {
    let me = std::env::current_exe().unwrap();
    let rig = Rig::start_by(Command::new(&me).env(keeper::START_LIMIT_ENV, "1"), "keep");
    rig.report("worker-0");
    rig.replace(&me, "hang");
    let hanging = rig.report("worker-1");
    assert_eq!(hanging.mode, "hang");
    let next = rig.report("worker-2");
    assert_eq!((next.mode.as_str(), next.memo.as_str()), ("keep", "written by the first worker"));
    assert!(is_gone(hanging.worker));
    // One that serves may be as silent as it likes.
    std::thread::sleep(Duration::from_millis(1500));
    assert!(!is_gone(next.worker));
}

/// Says so, and makes way when `mended` appears, as it would upon a SIGHUP.
fn stand_in(dir: &Path, client: &Client, reason: &str) {
    client.ready();
    let mut keeper = None;
    while !dir.join("mended").exists() {
        if !dir.exists() || dir.join("stop").exists() {
            return client.stop();
        }
        if keeper != client.keeper_pid() {
            keeper = client.keeper_pid();
            let text = format!("{}\n{}\n{reason}\n", std::process::id(), keeper.unwrap_or(0));
            fs::write(dir.join("tmp-in"), text).unwrap();
            fs::rename(dir.join("tmp-in"), dir.join(format!("stand-in-{}", client.adoptions()))).unwrap();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    std::process::exit(75);
}

fn a_crash_loop_is_slowed_down_and_somebody_stands_in() {
    let rig = Rig::start("crash");
    let begun = Instant::now();
    let report = rig.report("stand-in-0");
    // What is in place of names is the reason.
    assert!(
        report.names.contains("8 workers in a row") && report.names.contains("with status 3"),
        "{report:?}"
    );
    assert!(begun.elapsed() >= Duration::from_millis(100 + 200 + 400 + 800 + 1600 + 3200), "no delays");
    assert!(rig.dir.path().join("worker-7").exists() && !rig.dir.path().join("worker-8").exists());
}

fn p3_a_stand_in_is_adopted_and_makes_way_for_the_worker_again() {
    let rig = Rig::start("crash");
    let first = rig.report("stand-in-0");
    kill(first.keeper);
    let adopted = rig.report("stand-in-1");
    assert_eq!(adopted.worker, first.worker, "it has started another keeper");
    // The first keeper's second worker has written one of that name.
    fs::remove_file(rig.dir.path().join("worker-1")).unwrap();
    fs::write(rig.dir.path().join("mended"), "").unwrap();
    let worker = rig.report("worker-1");
    assert_eq!((worker.keeper, worker.mode.as_str()), (adopted.keeper, "crash"), "a worker, not a stand-in");
    // Before the directory goes: one that no longer finds `mended` would crash for ever.
    rig.ask_to_stop();
    wait_for("the end of both", || is_gone(worker.worker) && is_gone(adopted.keeper));
}

fn a_signal_for_the_keeper_reaches_the_worker() {
    let mut rig = Rig::start("idle");
    let first = rig.report("worker-0");
    kill_process(pid(rig.keeper.id()), Signal::TERM).unwrap();
    wait_for("the end of the keeper", || rig.keeper.try_wait().unwrap().is_some());
    assert!(rig.keeper.wait().unwrap().success(), "nothing is kept, so that nothing holds the keeper");
    assert!(is_gone(first.worker));
}

fn the_keeper_stays_under_four_megabytes() {
    let rig = Rig::start("keep");
    kill(rig.report("worker-0").worker);
    rig.report("worker-1");
    let status = fs::read_to_string(format!("/proc/{}/status", rig.keeper.id())).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap().trim().to_owned();
    let kib: u64 = resident.trim_end_matches(" kB").parse().unwrap();
    println!("keeper with 301 descriptors: {kib} KiB resident");
    assert!(kib < 4096, "{kib} KiB");
}
