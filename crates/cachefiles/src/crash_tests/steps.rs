//! The end of the process, or of the power, at every single step.

use larder_fscache::ObjectRange;

use super::{Machine, PAGE, SIZE, check, cookie, covers, fill, finish, volume};
use crate::layout::Place;
use crate::storage::Storage;
use crate::storage::sim::Stop;

/// What a process had done when it ended.
#[derive(Default)]
struct Progress {
    written: Vec<ObjectRange>,
    committed: Vec<ObjectRange>,
}

/// One process from the empty cache to the sealed object.
fn life(machine: &Machine, progress: &mut Progress) {
    let worker = machine.start(SIZE).expect("space");
    for range in [ObjectRange::at(0, 2 * PAGE), ObjectRange::at(3 * PAGE, 2 * PAGE), ObjectRange::at(0, SIZE)]
    {
        fill(&*worker.object, range).expect("space");
        progress.written.push(range);
        worker.object.commit().expect("a healthy disk");
        progress.committed.push(range);
    }
}

/// Every point at which a process that lives through `life` can end.
fn every_stop() -> impl Iterator<Item = Stop> {
    let calm = Machine::new(0);
    life(&calm, &mut Progress::default());
    let steps = calm.disk.steps();
    assert!(steps > 30, "the life has its steps counted: {steps}");
    (0..steps).flat_map(|step| [false, true].map(|applied| Stop { step, applied }))
}

#[test]
fn p1_after_a_power_loss_at_any_step_nothing_wrong_is_present_and_what_was_committed_is() {
    for stop in every_stop() {
        for seed in 0..8 {
            let mut machine = Machine::new(seed);
            let mut progress = Progress::default();
            assert!(!machine.survives(stop, || life(&machine, &mut progress)));
            machine.lose_power(seed);
            let worker = machine.start(SIZE).expect("space");
            let present = check(&*worker.object);
            for range in progress.committed {
                assert!(covers(&present, range), "{range} was committed, {stop:?}, seed {seed}");
            }
            drop(worker);
            finish(&machine);
        }
    }
}

#[test]
fn p4_after_the_death_of_the_worker_at_any_step_everything_marked_is_there_and_right() {
    for stop in every_stop() {
        let machine = Machine::new(0);
        let mut progress = Progress::default();
        assert!(!machine.survives(stop, || life(&machine, &mut progress)));
        let worker = machine.start(SIZE).expect("space");
        let present = check(&*worker.object);
        // Who dies in a sync takes its outcome to the grave: only what was durable before is trusted.
        let in_sync = machine.disk.stopped_in().is_some_and(|step| ["fsync", "fdatasync"].contains(&step));
        let expected = if in_sync { progress.committed } else { progress.written };
        for range in expected {
            assert!(covers(&present, range), "{range} was marked, {stop:?}");
        }
        drop(worker);
        finish(&machine);
    }
}

#[test]
fn p1_death_of_the_worker_then_a_commit_then_a_power_loss_leaves_nothing_wrong() {
    for stop in every_stop() {
        for seed in 0..4 {
            let mut machine = Machine::new(seed);
            machine.survives(stop, || life(&machine, &mut Progress::default()));
            let worker = machine.start(SIZE).expect("space");
            worker.object.commit().expect("a healthy disk");
            let before = check(&*worker.object);
            drop(worker);
            machine.lose_power(seed);
            let after = check(&*machine.start(SIZE).expect("space").object);
            assert_eq!(before, after, "{stop:?}, seed {seed}");
        }
    }
}

#[test]
fn p1_the_map_of_a_data_file_removed_by_hand_never_meets_the_next_file() {
    for step in 0..20 {
        for seed in 0..8 {
            let mut machine = Machine::new(seed);
            life(&machine, &mut Progress::default());
            machine.lose_power(seed);
            let place = Place::new(&volume(), &cookie());
            machine.disk.unlink(&place.data).expect("there");
            machine.disk.fsync_dir(&place.dir).expect("there");
            let stop = Stop { step: machine.disk.steps() + step, applied: true };
            machine.survives(stop, || drop(machine.start(SIZE)));
            // The new file has the inode number of the old one: only order protects it.
            machine.lose_power(seed);
            assert_eq!(check(&*machine.start(SIZE).expect("space").object), [], "step {step}, seed {seed}");
        }
    }
}
