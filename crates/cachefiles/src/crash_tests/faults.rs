//! Disks that fail or fill up, and writes that meet a sync.

use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use larder_fscache::{Backend, CookieKey, Error, ObjectRange, ObjectSpec};

use super::{Machine, PAGE, SIZE, check, cookie, fill, finish, volume};
use crate::Prune;
use crate::storage::sim::Stop;

#[test]
fn p1_what_is_written_during_a_sync_is_not_vouched_for_by_it() {
    let mut machine = Machine::new(0);
    let worker = machine.start(SIZE).expect("space");
    let (before, during) = (ObjectRange::at(0, PAGE), ObjectRange::at(2 * PAGE, PAGE));
    fill(&*worker.object, before).expect("space");
    let object = Arc::clone(&worker.object);
    machine.disk.after_next("fsync", move || fill(&*object, during).expect("space"));
    worker.object.commit().expect("a healthy disk");
    assert_eq!(check(&*worker.object), [before, during]);
    drop(worker);
    for seed in 0..16 {
        machine.disk.write_back();
        let mut lost = Machine { disk: machine.disk.clone(), keeper: Arc::default(), boot: 1 };
        lost.lose_power(seed);
        assert_eq!(check(&*lost.start(SIZE).expect("space").object), [before], "seed {seed}");
    }
    machine.lose_power(0);
    finish(&machine);
}

#[test]
fn p1_a_failed_sync_takes_back_everything_that_was_not_durable() {
    for seed in 0..64 {
        let mut machine = Machine::new(seed);
        let worker = machine.start(SIZE).expect("space");
        let durable = ObjectRange::at(0, PAGE);
        fill(&*worker.object, durable).expect("space");
        worker.object.commit().expect("a healthy disk");
        fill(&*worker.object, ObjectRange::at(0, 4 * PAGE)).expect("space");
        machine.disk.fail_syncs(true);
        let failed = worker.object.commit().expect_err("the disk fails");
        assert_eq!(failed.errno(), rustix::io::Errno::IO.raw_os_error());
        assert_eq!(check(&*worker.object), [durable]);
        machine.disk.fail_syncs(false);
        worker.object.commit().expect("healthy again");
        fill(&*worker.object, ObjectRange::at(2 * PAGE, PAGE)).expect("space");
        worker.object.commit().expect("healthy again");
        drop(worker);
        machine.lose_power(seed);
        let present = check(&*machine.start(SIZE).expect("space").object);
        assert_eq!(present, [durable, ObjectRange::at(2 * PAGE, PAGE)]);
    }
}

#[test]
fn p1_a_write_that_a_failing_sync_lost_does_not_mark_its_blocks_afterwards() {
    let machine = Machine::new(0);
    let worker = machine.start(SIZE).expect("space");
    fill(&*worker.object, ObjectRange::at(5 * PAGE, PAGE)).expect("space");
    machine.disk.fail_syncs(true);
    let (disk, object) = (machine.disk.clone(), Arc::clone(&worker.object));
    let (started, commit) = mpsc::channel();
    // The bytes are written, the bits not yet set; meanwhile a commit in another thread fails.
    machine.disk.after_next("pwrite", move || {
        let (failed, failure) = mpsc::channel();
        disk.after_next("fsync", move || failed.send(()).expect("somebody waits"));
        started.send(thread::spawn(move || object.commit())).expect("somebody waits");
        failure.recv().expect("the sync is reached");
        thread::sleep(Duration::from_millis(100));
    });
    fill(&*worker.object, ObjectRange::at(0, 2 * PAGE)).expect("space");
    commit.recv().expect("started").join().expect("no panic").expect_err("the disk fails");
    assert_eq!(check(&*worker.object), []);
}

#[test]
fn p1_a_worker_killed_in_a_sync_that_fails_leaves_nothing_that_the_sync_lost() {
    for seed in 0..64 {
        let mut machine = Machine::new(seed);
        let worker = machine.start(SIZE).expect("space");
        fill(&*worker.object, ObjectRange::at(0, 4 * PAGE)).expect("space");
        machine.disk.fail_syncs(true);
        // Before it the attribute says that there will be a map.
        let stop = Stop { step: machine.disk.steps() + 1, applied: true };
        assert!(!machine.survives(stop, || worker.object.commit().expect("never returns")));
        assert_eq!(
            machine.disk.stopped_in(),
            Some("fsync"),
            "the first sync of a file takes its attribute along"
        );
        machine.disk.fail_syncs(false);
        drop(worker);
        // The kernel has reported the failure to a process that is gone; the next sync succeeds.
        let worker = machine.start(SIZE).expect("space");
        check(&*worker.object);
        worker.object.commit().expect("healthy again");
        drop(worker);
        machine.lose_power(seed);
        check(&*machine.start(SIZE).expect("space").object);
        finish(&machine);
    }
}

#[test]
fn p1_a_full_disk_marks_nothing_and_the_next_try_succeeds() {
    let machine = Machine::new(0);
    let worker = machine.start(SIZE).expect("space");
    fill(&*worker.object, ObjectRange::at(0, PAGE)).expect("space");
    machine.disk.fill_up(true);
    let failed = fill(&*worker.object, ObjectRange::at(PAGE, 3 * PAGE)).expect_err("full");
    assert!(matches!(failed, Error::NoSpace { .. }), "{failed:?}");
    assert_eq!(failed.errno(), rustix::io::Errno::NOSPC.raw_os_error());
    assert!(matches!(worker.object.commit(), Err(Error::NoSpace { .. })));
    assert_eq!(check(&*worker.object), [ObjectRange::at(0, PAGE)]);
    let other = CookieKey::new("other").expect("valid");
    let failed =
        worker.cache.acquire(&volume(), &other, &ObjectSpec::of_size(SIZE)).map(|_| ()).expect_err("full");
    assert!(matches!(failed, Error::NoSpace { .. }), "{failed:?}");
    machine.disk.fill_up(false);
    fill(&*worker.object, ObjectRange::at(PAGE, 3 * PAGE)).expect("space");
    worker.object.commit().expect("space");
    worker.cache.acquire(&volume(), &other, &ObjectSpec::of_size(SIZE)).expect("space");
}

#[test]
fn p4_an_error_while_an_object_is_taken_up_does_not_open_its_file_anew() {
    let machine = Machine::new(0);
    let worker = machine.start(SIZE).expect("space");
    let written = ObjectRange::at(0, PAGE);
    fill(&*worker.object, written).expect("space");
    drop(worker);
    let cache = machine.start_empty();
    let acquire = || cache.acquire(&volume(), &cookie(), &ObjectSpec::of_size(SIZE));
    // The first look at what the keeper has. A mount may have its mark on that file.
    machine.disk.fail_calls(0, 1);
    assert!(acquire().is_err(), "the file was opened a second time");
    assert_eq!(check(&*acquire().expect("healthy again")), [written]);
}

#[test]
fn p4_a_held_file_that_cannot_be_had_is_not_opened_anew_and_not_removed() {
    let machine = Machine::new(0);
    let worker = machine.start(SIZE).expect("space");
    let written = ObjectRange::at(0, PAGE);
    fill(&*worker.object, written).expect("space");
    worker.object.commit().expect("a healthy disk");
    drop(worker);
    let cache = machine.start_empty();
    machine.keeper.gives_nothing.store(true, Ordering::Relaxed);
    assert!(cache.is_in_use(&volume(), &cookie()));
    assert_eq!(cache.prune(&Prune::default()).expect("a healthy disk").objects, 0);
    assert_eq!(cache.cull(u64::MAX, u64::MAX).objects, 0);
    let acquire = || cache.acquire(&volume(), &cookie(), &ObjectSpec::of_size(SIZE));
    assert!(acquire().is_err(), "the file was opened a second time");
    machine.keeper.gives_nothing.store(false, Ordering::Relaxed);
    assert_eq!(check(&*acquire().expect("healthy again")), [written]);
}
