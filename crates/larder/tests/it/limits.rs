//! How much disk the cache may take: from options, from the configuration file, and kept for the daemon's life.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::Larder;
use crate::support::daemon::kill;
use crate::support::program::User;

fn configure(larder: &Larder, text: &str) {
    fs::create_dir_all(larder.root()).expect("our own directory");
    fs::write(larder.root().join("config.toml"), text).expect("our own file");
}

fn command_line(pid: i32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).expect("it lives");
    String::from_utf8_lossy(&line).replace('\0', " ")
}

#[test]
fn p7_limits_that_cannot_be_are_refused_by_name_before_anything_is_started() {
    let larder = Larder::new(User::Same);
    for (option, code) in [("--bstop=5", 1), ("--quota=1KiB", 1), ("--brun=100", 2), ("--tag=a/b", 2)] {
        let outcome = larder.run(["daemon", "--detach", option]);
        assert_eq!(outcome.code, code, "{option}: {}", outcome.stderr);
        let name = option.trim_start_matches('-').split('=').next().expect("a name");
        assert!(outcome.stderr.contains(name), "{option}: {}", outcome.stderr);
    }
    configure(&larder, "[cache]\nquotum = \"1GiB\"\n");
    let said = larder.run(["daemon", "--detach"]).failed();
    assert!(said.contains("config.toml") && said.contains("quotum") && said.contains("line 2"), "{said}");
    assert!(larder.run(["daemon"]).failed().contains("quotum"));
    assert_eq!(larder.processes(), Vec::<i32>::new());
}

#[test]
fn a_worker_is_started_again_with_the_limits_that_the_daemon_was_started_with() {
    let larder = Larder::new(User::Same);
    configure(&larder, "[cache]\nquota = \"2GiB\"\nbrun = 3\nbcull = 2\n");
    larder.run(["daemon", "--detach", "--quota", "1GiB"]).ok();
    let first = larder.worker();
    let args = command_line(first);
    for arg in ["--quota=1073741824", "--brun=3", "--bcull=2"] {
        assert!(args.contains(arg), "{args}");
    }
    // What becomes of the file meanwhile does not matter to the mounts that wait for the next worker.
    configure(&larder, "broken");
    kill(first, Signal::KILL);
    let begun = Instant::now();
    while larder.worker() == first {
        assert!(begun.elapsed() < Duration::from_secs(20), "{}", larder.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(command_line(larder.worker()), args);
    let said = larder.run(["daemon", "--detach", "--quota=1GiB"]).failed();
    assert!(said.contains("runs already"), "{said}");
    assert!(larder.run(["daemon", "--stop", "--tag=x"]).failed().contains("--stop takes no limits"));
}
