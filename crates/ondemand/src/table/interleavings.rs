//! Readers, a daemon, and whoever ends them, in every order that shuttle comes upon.
//!
//! Shuttle runs each of these hundreds of times with another schedule; a reader that nobody wakes is a deadlock, which
//! it reports. A failing schedule is printed and can be replayed.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::SeqCst},
};

use shuttle::{future::block_on, thread};

use super::{Body, Ending, Limits, Message, ObjectId, Refused, Reply, SharedTables};

type Shared = SharedTables<u8, u8, u8>;

const SCHEDULES: usize = 300;

fn check(model: impl Fn() + Send + Sync + 'static) {
    let model = Arc::new(model);
    let same = Arc::clone(&model);
    shuttle::check_random(move || model(), SCHEDULES);
    shuttle::check_pct(move || same(), SCHEDULES, 3);
}

fn shared() -> (Arc<Shared>, ObjectId) {
    let tables = Shared::new(Limits { objects_max: 4, reads_per_object_max: 2, in_hand_per_object_max: 1 });
    let object = tables.step(|tables| tables.add(0)).expect("alive");
    (tables, object)
}

fn reply(message: &Message<u8, u8>) -> Option<Reply<u8>> {
    match message.body {
        Body::Open => Some(Reply::Open(Ok(1))),
        Body::Read(_) => Some(Reply::Read(Ok(()))),
        Body::Close => None,
    }
}

/// Answers until a CLOSE comes.
fn serve(tables: &Arc<Shared>) {
    loop {
        let message = block_on(tables.message());
        let Some(reply) = reply(&message) else { return };
        match tables.answer(message.answer(), reply) {
            Ok(()) | Err(Refused::Cancelled { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

fn read(tables: &Arc<Shared>, object: ObjectId) -> Result<Ending<u8>, Refused> {
    block_on(async { Ok(tables.read(object, 0).await?.await) })
}

#[test]
fn every_reader_is_answered_also_when_they_outnumber_the_places() {
    check(|| {
        let (tables, object) = shared();
        let daemon = thread::spawn({
            let tables = Arc::clone(&tables);
            move || serve(&tables)
        });
        let readers: Vec<_> = (0..4)
            .map(|_| {
                let tables = Arc::clone(&tables);
                thread::spawn(move || read(&tables, object))
            })
            .collect();
        for reader in readers {
            let ending = reader.join().expect("no panic");
            assert_eq!(ending, Ok(Ending::Answered(Reply::Read(Ok(())))));
        }
        block_on(tables.drop_object(object));
        daemon.join().expect("a CLOSE ends it");
        tables.step(|tables| assert!(tables.is_empty() && tables.state(object).is_none()));
    });
}

#[test]
fn cancel_against_deliver_and_answer_leaves_nothing_and_nobody() {
    check(|| {
        let (tables, object) = shared();
        let daemon = thread::spawn({
            let tables = Arc::clone(&tables);
            move || serve(&tables)
        });
        let impatient = thread::spawn({
            let tables = Arc::clone(&tables);
            move || drop(block_on(tables.read(object, 1)))
        });
        let patient = thread::spawn({
            let tables = Arc::clone(&tables);
            move || read(&tables, object)
        });
        impatient.join().expect("no panic");
        assert_eq!(patient.join().expect("no panic"), Ok(Ending::Answered(Reply::Read(Ok(())))));
        block_on(tables.drop_object(object));
        daemon.join().expect("a CLOSE ends it");
        tables.step(|tables| assert!(tables.is_empty()));
    });
}

#[test]
fn kill_against_enter_flushes_or_refuses_and_nobody_hangs() {
    check(|| {
        let (tables, object) = shared();
        let readers: Vec<_> = (0..3)
            .map(|_| {
                let tables = Arc::clone(&tables);
                thread::spawn(move || read(&tables, object))
            })
            .collect();
        let daemon = thread::spawn({
            let tables = Arc::clone(&tables);
            move || {
                // Takes two messages at most, and may find none.
                for _ in 0..2 {
                    let Some(message) = tables.deliver() else { return };
                    if let Some(reply) = reply(&message) {
                        let _ = tables.answer(message.answer(), reply);
                    }
                }
            }
        });
        block_on(tables.kill());
        for reader in readers {
            let ending = reader.join().expect("no panic");
            let known = [Ok(Ending::Dead), Ok(Ending::Answered(Reply::Read(Ok(())))), Err(Refused::Dead)];
            assert!(known.contains(&ending), "{ending:?}");
        }
        daemon.join().expect("no panic");
        tables.step(|tables| assert!(tables.is_empty() && tables.is_all_idle()));
    });
}

#[test]
fn a_drop_is_over_only_when_the_worker_is() {
    check(|| {
        let (tables, object) = shared();
        let working = Arc::new(AtomicU32::new(0));
        let reader = thread::spawn({
            let tables = Arc::clone(&tables);
            move || read(&tables, object)
        });
        let daemon = thread::spawn({
            let (tables, working) = (Arc::clone(&tables), Arc::clone(&working));
            move || {
                for _ in 0..3 {
                    let message = tables.deliver();
                    let Some((message, reply)) = message.and_then(|m| reply(&m).map(|r| (m, r))) else {
                        continue;
                    };
                    working.fetch_add(1, SeqCst);
                    thread::yield_now();
                    working.fetch_sub(1, SeqCst);
                    let _ = tables.answer(message.answer(), reply);
                }
            }
        });
        let holder = thread::spawn({
            let (tables, working) = (Arc::clone(&tables), Arc::clone(&working));
            move || {
                if let Ok(_hold) = tables.hold(object) {
                    working.fetch_add(1, SeqCst);
                    block_on(tables.going(object));
                    working.fetch_sub(1, SeqCst);
                }
            }
        });
        block_on(tables.drop_object(object));
        assert_eq!(working.load(SeqCst), 0, "somebody still works for what is gone");
        reader.join().expect("no panic").ok();
        daemon.join().expect("no panic");
        holder.join().expect("no panic");
    });
}

#[test]
fn restore_against_a_daemon_that_is_still_answering_loses_no_reader() {
    check(|| {
        let (tables, object) = shared();
        let reader = thread::spawn({
            let tables = Arc::clone(&tables);
            move || read(&tables, object)
        });
        let old = thread::spawn({
            let tables = Arc::clone(&tables);
            move || {
                for _ in 0..2 {
                    let Some(message) = tables.deliver() else { continue };
                    if let Some(reply) = reply(&message) {
                        let _ = tables.answer(message.answer(), reply);
                    }
                }
            }
        });
        tables.step(super::Tables::restore);
        // What the old one takes after this it leaves; the next restore gives it to the new one.
        old.join().expect("no panic");
        tables.step(super::Tables::restore);
        let new = thread::spawn({
            let tables = Arc::clone(&tables);
            move || serve(&tables)
        });
        assert_eq!(reader.join().expect("no panic"), Ok(Ending::Answered(Reply::Read(Ok(())))));
        // Opened again, so that there is a handle for the CLOSE that ends the new daemon.
        if let Ok(open) = tables.open(object) {
            block_on(open);
        }
        block_on(tables.drop_object(object));
        new.join().expect("a CLOSE ends it");
    });
}

#[test]
fn two_daemons_never_have_the_same_request() {
    check(|| {
        let (tables, object) = shared();
        let answered = Arc::new(AtomicU32::new(0));
        let daemons: Vec<_> = (0..2)
            .map(|_| {
                let (tables, answered) = (Arc::clone(&tables), Arc::clone(&answered));
                thread::spawn(move || {
                    while answered.load(SeqCst) < 3 {
                        let Some(message) = tables.deliver() else {
                            thread::yield_now();
                            continue;
                        };
                        let reply = reply(&message).expect("nothing is closed");
                        tables.answer(message.answer(), reply).expect("it is nobody else's");
                        answered.fetch_add(1, SeqCst);
                    }
                })
            })
            .collect();
        assert_eq!(read(&tables, object), Ok(Ending::Answered(Reply::Read(Ok(())))));
        assert_eq!(read(&tables, object), Ok(Ending::Answered(Reply::Read(Ok(())))));
        for daemon in daemons {
            daemon.join().expect("no panic");
        }
    });
}
