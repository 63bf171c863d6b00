//! Any sequence of fills, commits, faults, deaths and power losses.

use larder_fscache::{Backend, CacheObject, Error, ObjectRange, ObjectSpec};
use proptest::prelude::*;

use super::{Machine, PAGE, SIZE, Worker, check, cookie, covers, fill, volume};
use crate::storage::sim::Stop;

/// What can happen to a cache.
#[derive(Clone, Debug)]
enum Event {
    Write { at: u64, len: u64 },
    Commit,
    CommitFails,
    CommitStops { after: u64, applied: bool, power: bool, seed: u64 },
    WriteBack,
    Kill,
    PowerLoss { seed: u64 },
    Full(bool),
    Reacquire,
    Remove,
    OtherSize,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0..SIZE, 0..3 * PAGE).prop_map(|(at, len)| Event::Write { at, len }),
        4 => (0u64..7, 1u64..4).prop_map(|(page, pages)| Event::Write { at: page * PAGE, len: pages * PAGE }),
        4 => Just(Event::Commit),
        1 => Just(Event::CommitFails),
        2 => (0u64..9, any::<bool>(), any::<bool>(), any::<u64>())
            .prop_map(|(after, applied, power, seed)| Event::CommitStops { after, applied, power, seed }),
        2 => Just(Event::WriteBack),
        2 => Just(Event::Kill),
        2 => any::<u64>().prop_map(|seed| Event::PowerLoss { seed }),
        1 => any::<bool>().prop_map(Event::Full),
        1 => Just(Event::Reacquire),
        1 => Just(Event::Remove),
        1 => Just(Event::OtherSize),
    ]
}

/// A machine with a worker that is always running, and what must be true of it.
struct World {
    machine: Machine,
    worker: Option<Worker>,
    size: u64,
    /// What a commit has promised.
    durable: Vec<ObjectRange>,
}

impl World {
    fn object(&self) -> &dyn CacheObject {
        &*self.worker.as_ref().expect("always running").object
    }

    fn restart(&mut self) {
        self.worker = None;
        self.machine.disk.fill_up(false);
        self.worker = Some(self.machine.start(self.size).expect("space"));
    }

    fn lose_power(&mut self, seed: u64) {
        self.worker = None;
        self.machine.lose_power(seed);
        self.restart();
    }

    fn committed(&mut self) {
        self.durable = check(self.object());
    }

    fn step(&mut self, event: &Event) {
        match *event {
            Event::Write { at, len } => {
                let range = ObjectRange::at(at, len).clamp_to(self.size);
                let failed = fill(self.object(), range).err();
                assert!(matches!(failed, None | Some(Error::NoSpace { .. })), "{failed:?}");
            }
            Event::Commit => match self.object().commit() {
                Ok(()) => self.committed(),
                Err(failed) => assert!(matches!(failed, Error::NoSpace { .. }), "{failed:?}"),
            },
            Event::CommitFails => {
                self.machine.disk.fail_syncs(true);
                let _ = self.object().commit();
                self.machine.disk.fail_syncs(false);
            }
            Event::CommitStops { after, applied, power, seed } => {
                let stop = Stop { step: self.machine.disk.steps() + after, applied };
                let before = check(self.object());
                let lived = self.machine.survives(stop, || drop(self.object().commit()));
                let in_sync = !lived
                    && self
                        .machine
                        .disk
                        .stopped_in()
                        .is_some_and(|step| ["fsync", "fdatasync"].contains(&step));
                if power {
                    self.lose_power(seed)
                } else {
                    self.restart()
                }
                if !power && !in_sync {
                    assert_eq!(check(self.object()), before, "a live map outlives its worker");
                }
            }
            Event::WriteBack => self.machine.disk.write_back(),
            Event::Kill => {
                let before = check(self.object());
                self.restart();
                assert_eq!(check(self.object()), before, "a live map outlives its worker");
            }
            Event::PowerLoss { seed } => self.lose_power(seed),
            Event::Full(full) => self.machine.disk.fill_up(full),
            Event::Reacquire => self.reacquire(false),
            Event::Remove => self.reacquire(true),
            Event::OtherSize => {
                self.size = if self.size == SIZE { SIZE - PAGE } else { SIZE };
                self.durable.clear();
                self.reacquire(false);
            }
        }
    }

    /// Lets the object go and takes it again, from the disk alone.
    fn reacquire(&mut self, remove: bool) {
        self.machine.disk.fill_up(false);
        let Worker { cache, object } = self.worker.take().expect("always running");
        drop(object);
        cache.relinquish(&volume(), &cookie()).expect("idle");
        if remove {
            cache.remove(&volume(), &cookie()).expect("idle");
            self.durable.clear();
        }
        let object = cache.acquire(&volume(), &cookie(), &ObjectSpec::of_size(self.size)).expect("space");
        assert!(!remove || object.present_bytes() == 0);
        self.worker = Some(Worker { cache, object });
    }
}

proptest! {
    #[test]
    fn p1_p4_whatever_happens_what_is_present_is_the_truth(
        seed: u64, events in proptest::collection::vec(event(), 1..40),
    ) {
        let machine = Machine::new(seed);
        let worker = Some(machine.start(SIZE).expect("space"));
        let mut world = World { machine, worker, size: SIZE, durable: Vec::new() };
        for event in &events {
            world.step(event);
            let present = check(world.object());
            for range in &world.durable {
                prop_assert!(covers(&present, *range), "{range} was committed; after {event:?}");
            }
        }
        world.lose_power(seed);
        check(world.object());
    }
}
