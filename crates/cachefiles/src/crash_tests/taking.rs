//! Bytes taken away: a crash in between must leave them, or holes, and never zeros.

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use larder_fscache::{AuxData, Backend, ObjectRange, ObjectSpec};

use super::{Machine, PAGE, SIZE, Worker, check, cookie, covers, fill, finish, volume};
use crate::storage::sim::Stop;
use crate::{Cachefiles, Prune};

const SEEDS: u64 = 6;

/// A cache whose one object is idle, committed with everything or its first four blocks.
fn idle(machine: &Machine, complete: bool) -> Cachefiles {
    let Worker { cache, object } = machine.start(SIZE).expect("space");
    fill(&*object, ObjectRange::at(0, if complete { SIZE } else { 4 * PAGE })).expect("space");
    object.commit().expect("a healthy disk");
    drop(object);
    cache.relinquish(&volume(), &cookie()).expect("idle");
    cache
}

/// Runs `work` on a cache that `prepare` made, with the end of the process at every step of it, then a power loss;
/// `look` sees the machine afterwards, and whether `work` had come to its end before.
fn at_every_step<T>(prepare: impl Fn(&Machine) -> T, work: impl Fn(&T), look: impl Fn(&Machine, bool, &str)) {
    let calm = Machine::new(0);
    let ready = prepare(&calm);
    let from = calm.disk.steps();
    work(&ready);
    let steps = calm.disk.steps() - from;
    assert!(steps > 0, "there is a step to stop at");
    for step in 0..=steps {
        for (applied, seed) in [false, true].into_iter().flat_map(|a| (0..SEEDS).map(move |seed| (a, seed))) {
            let mut machine = Machine::new(seed);
            let ready = prepare(&machine);
            machine.disk.write_back();
            let stop = Stop { step: machine.disk.steps() + step, applied };
            let lived = machine.survives(stop, || work(&ready));
            assert_eq!(lived, step == steps, "every step is one");
            drop(ready);
            machine.lose_power(seed);
            look(&machine, lived, &format!("step {step} of {steps}, applied {applied}, seed {seed}"));
        }
    }
}

fn present(machine: &Machine, size: u64) -> Vec<ObjectRange> {
    check(&*machine.start(size).expect("space").object)
}

#[test]
fn p1_what_was_replaced_by_the_same_does_not_come_back_with_the_power() {
    for complete in [false, true] {
        at_every_step(
            |machine| idle(machine, complete),
            |cache| drop(cache.replace(&volume(), &cookie(), &ObjectSpec::of_size(SIZE)).expect("space")),
            |machine, done, at| {
                let present = present(machine, SIZE);
                assert!(!done || present.is_empty(), "complete {complete}, {at}");
                finish(machine);
            },
        );
    }
}

#[test]
fn p1_a_crash_at_any_step_of_invalidate_range_leaves_the_bytes_or_holes_and_never_zeros() {
    let gone = ObjectRange::at(PAGE + 1, PAGE);
    let (before, after) = (ObjectRange::at(0, PAGE), ObjectRange::at(3 * PAGE, PAGE));
    for complete in [false, true] {
        at_every_step(
            |machine| idle(machine, complete),
            |cache| assert!(cache.invalidate_range(&volume(), &cookie(), gone).expect("a healthy disk") > 0),
            |machine, done, at| {
                let present = present(machine, SIZE);
                assert!(covers(&present, before) && covers(&present, after), "complete {complete}, {at}");
                let left = covers(&present, ObjectRange::at(PAGE, PAGE));
                assert!(!(done && left), "complete {complete}, {at}: it is durable that they are not there");
                finish(machine);
            },
        );
    }
}

#[test]
fn p1_a_crash_at_any_step_of_culling_leaves_an_object_whole_or_not_at_all() {
    at_every_step(
        |machine| idle(machine, true),
        |cache| assert_eq!(cache.cull(u64::MAX, 0).objects, 1),
        |machine, _done, at| {
            let present = present(machine, SIZE);
            assert!(present.is_empty() || covers(&present, ObjectRange::at(0, SIZE)), "{present:?}, {at}");
            finish(machine);
        },
    );
}

#[test]
fn p1_a_crash_at_any_step_of_prune_leaves_an_object_whole_or_not_at_all() {
    at_every_step(
        |machine| idle(machine, false),
        |cache| assert_eq!(cache.prune(&Prune::default()).expect("a healthy disk").objects, 1),
        |machine, _done, at| {
            let present = present(machine, SIZE);
            assert!(present.is_empty() || present == [ObjectRange::at(0, 4 * PAGE)], "{present:?}, {at}");
            finish(machine);
        },
    );
}

#[test]
fn p1_a_crash_at_any_step_of_a_resize_leaves_right_bytes_under_either_size() {
    // In the middle of a block: what the old size had of it is zeroed.
    for (size, whole) in [(2 * PAGE + 5, 2), (SIZE + PAGE, 4)] {
        let prepare = |machine: &Machine| {
            let worker = machine.start(SIZE).expect("space");
            fill(&*worker.object, ObjectRange::at(0, 4 * PAGE)).expect("space");
            worker.object.commit().expect("a healthy disk");
            worker
        };
        let resize = |worker: &Worker| {
            let spec = ObjectSpec::of_size(size);
            let object = worker.cache.resize(&volume(), &cookie(), &spec).expect("a healthy disk");
            assert_eq!(check(&*object), [ObjectRange::at(0, whole * PAGE)]);
            object.commit().expect("a healthy disk");
        };
        at_every_step(prepare, resize, |machine, done, at| {
            // Looked at under the size that it has on the disk: nothing of the other is taken up.
            for look_at in if done { [size, SIZE] } else { [SIZE, size] } {
                let one = Machine {
                    disk: machine.disk.after_power_loss(1),
                    keeper: std::sync::Arc::default(),
                    boot: 9,
                };
                let present = present(&one, look_at);
                assert!(!done || look_at == SIZE || present == [ObjectRange::at(0, whole * PAGE)], "{at}");
            }
        });
    }
}

#[test]
fn p1_a_crash_at_any_step_of_a_replace_leaves_nothing_of_the_old_under_the_new_coherency_data() {
    let new = ObjectSpec { size: SIZE, aux: AuxData::new(b"new").expect("short") };
    at_every_step(
        |machine| {
            let worker = machine.start(SIZE).expect("space");
            fill(&*worker.object, ObjectRange::at(0, SIZE)).expect("space");
            worker
        },
        |worker| {
            worker.object.commit().expect("a healthy disk");
            let object = worker.cache.replace(&volume(), &cookie(), &new).expect("space");
            object.write(0, &[9; 4096]).expect("space");
            object.commit().expect("a healthy disk");
        },
        |machine, done, at| {
            let worker = machine.start_empty();
            let object = worker.acquire(&volume(), &cookie(), &new).expect("space");
            let mut found = [0; 4096];
            let present = object.present_bytes();
            assert!(present == 4096 || present == 0 && !done, "{at}");
            if present > 0 {
                object.read_at(0, &mut found).expect("readable");
                assert_eq!(found, [9; 4096], "{at}");
            }
        },
    );
}

#[test]
fn p1_a_crash_while_a_volume_changes_its_coherency_data_leaves_nothing_of_the_old() {
    let (old, new) = (AuxData::new(b"1").expect("short"), AuxData::new(b"2").expect("short"));
    at_every_step(
        |machine| {
            let cache = machine.start_empty();
            cache.acquire_volume(&volume(), &old).expect("space");
            drop(cache);
            idle(machine, true)
        },
        |cache| {
            cache.acquire_volume(&volume(), &new).expect("space");
            cache.maintain().expect("a healthy disk");
        },
        |machine, done, at| {
            let cache = machine.start_empty();
            cache.acquire_volume(&volume(), &new).expect("space");
            let object = cache.acquire(&volume(), &cookie(), &ObjectSpec::of_size(SIZE)).expect("space");
            assert_eq!(object.present_bytes(), 0, "done {done}, {at}");
        },
    );
}

#[test]
fn p4_a_hand_over_in_the_middle_of_a_commit_loses_nothing() {
    let machine = Machine::new(0);
    let worker = machine.start(SIZE).expect("space");
    fill(&*worker.object, ObjectRange::at(0, 2 * PAGE)).expect("space");
    let (reached, in_sync) = mpsc::channel();
    machine.disk.after_next("fsync", move || {
        reached.send(()).expect("somebody waits");
        thread::sleep(Duration::from_millis(100));
    });
    let object = Arc::clone(&worker.object);
    let commit = thread::spawn(move || object.commit());
    in_sync.recv().expect("the sync is reached");
    worker.cache.end_commits();
    let successor = machine.start(SIZE).expect("space");
    assert_eq!(check(&*successor.object), [ObjectRange::at(0, 2 * PAGE)]);
    commit.join().expect("no panic").expect("a healthy disk");
    fill(&*worker.object, ObjectRange::at(2 * PAGE, PAGE)).expect("space");
    worker.object.commit().expect_err("it would be left in the middle");
    assert!(worker.cache.has_ended_commits() && !successor.cache.has_ended_commits());
}
