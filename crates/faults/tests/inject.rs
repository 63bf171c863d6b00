//! Plans in force: what a point says, and what is left when it was the last thing.
#![cfg(feature = "inject")]

use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use larder_faults::{
    Counts, ENV, Error, Kind, Site, State, Verdict, check, clear, counts, install_text, length, point,
};
use rustix::io::Errno;

/// One plan a process, so one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn a_plan_strikes_where_it_says_until_it_is_cleared() {
    let _alone = alone();
    assert_eq!(point(Site::CachefilesPwrite), Verdict::Go);
    install_text("seed=1 cachefiles.pwrite=short:1000000 cachefiles.fsync=eio:1000000").expect("a plan");
    assert_eq!(check(Site::CachefilesFsync), Err(Errno::IO));
    assert!((1..4096).contains(&length(Site::CachefilesPwrite, 4096).expect("only short")));
    assert_eq!(length(Site::CachefilesPread, 4096), Ok(4096));
    let counts = clear();
    assert_eq!(counts.faults(Site::CachefilesFsync, Kind::Eio), 1);
    assert_eq!((counts.visits(Site::CachefilesPread), counts.total()), (1, 2));
    assert_eq!(check(Site::CachefilesFsync), Ok(()));
    assert_eq!(larder_faults::counts(), Counts::default());
}

#[test]
fn a_spent_budget_lets_everything_pass() {
    let _alone = alone();
    install_text("budget=3 cachefiles.open=enospc:1000000").expect("a plan");
    let failed = (0..10).filter(|_| check(Site::CachefilesOpen) == Err(Errno::NOSPC)).count();
    assert_eq!((failed, counts().total(), counts().visits(Site::CachefilesOpen)), (3, 3, 10));
    clear();
}

#[test]
fn threads_share_the_faults_of_a_seed_whatever_their_order() {
    let _alone = alone();
    let strike = || {
        install_text("seed=11 cachefiles.pread=eio:100000").expect("a plan");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..500).filter(|_| check(Site::CachefilesPread).is_err()).count());
            }
        });
        clear().faults(Site::CachefilesPread, Kind::Eio)
    };
    let first = strike();
    assert!(first > 100);
    assert_eq!(strike(), first);
}

#[test]
fn a_plan_that_is_none_changes_nothing() {
    let _alone = alone();
    assert!(matches!(install_text("cachefiles.nothing=eio:1"), Err(Error::Site { .. })));
    assert!(matches!(install_text("state=/nowhere/state"), Err(Error::State { .. })));
    assert_eq!(point(Site::CachefilesOpen), Verdict::Go);
}

/// Runs as a test of this very file in a process of its own, with a plan in the environment.
#[test]
fn a_process_that_the_next_test_starts() {
    let Ok(text) = std::env::var(ENV) else { return };
    install_text(&text).expect("a plan");
    for _ in 0..10 {
        point(Site::OndemandVerified);
    }
}

#[test]
fn death_at_a_visit_is_a_kill_and_happens_once_over_all_processes() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("state");
    let state = State::create(&path).expect("space");
    let plan = format!("state={} ondemand.verified=die@13", path.display());
    let victim = || {
        let me = std::env::current_exe().expect("this program");
        Command::new(me)
            .args(["--exact", "a_process_that_the_next_test_starts"])
            .env(ENV, &plan)
            .output()
            .expect("it starts")
            .status
    };
    assert!(victim().success(), "visits 1 to 10");
    assert_eq!(victim().signal(), Some(9), "visit 13");
    assert!(victim().success(), "visits 14 to 23");
    let counts = state.counts();
    assert_eq!(counts.faults(Site::OndemandVerified, Kind::Die), 1);
    assert_eq!(counts.visits(Site::OndemandVerified), 23);
    state.arm(false);
    assert!(victim().success());
    assert_eq!(state.counts().visits(Site::OndemandVerified), 23, "what is held back is no visit");
}
