//! The on-demand bugs that the kernel had (reference: kernel-interfaces.md, D.11), each as a test of what is done here.

use super::{
    Answer, Body, Ending, HandleId, Kind, Limits, Message, ObjectId, ObjectState, Refused, Reply, Tables,
};

type T = Tables<&'static str, u64, i32>;
const READ_OK: Reply<i32> = Reply::Read(Ok(()));
const EIO: i32 = 5;

fn tables() -> T {
    T::new(Limits::default())
}

/// An object that is open, and the handle that its OPEN made.
fn opened(tables: &mut T) -> (ObjectId, HandleId) {
    let object = tables.add("blob").expect("alive");
    let open = tables.open(object).expect("closed");
    let message = tables.deliver().expect("the OPEN");
    assert_eq!((message.request, message.body.kind()), (open, Kind::Open));
    tables.answer(message.answer(), Reply::Open(Ok(4096))).expect("in hand");
    assert_eq!(tables.collect(open), Some(Ending::Answered(Reply::Open(Ok(4096)))));
    (object, message.handle)
}

fn kinds(tables: &mut T) -> Vec<Kind> {
    std::iter::from_fn(|| tables.deliver()).map(|message| message.body.kind()).collect()
}

#[test]
fn cve_2024_39510_cancel_while_the_message_is_being_handled() {
    let mut tables = tables();
    let (object, _) = opened(&mut tables);
    let read = tables.read(object, 1).expect("open");
    let message: Message<_, _> = tables.deliver().expect("the READ");
    tables.cancel(read);
    assert_eq!(message.body, Body::Read(1), "the message is a copy: nothing of it goes with the request");
    assert_eq!(tables.answer(message.answer(), READ_OK), Err(Refused::Cancelled { request: read }));
    assert_eq!(tables.answer(message.answer(), READ_OK), Err(Refused::UnknownRequest { request: read }));
    assert!(tables.is_empty());
}

#[test]
fn cve_2024_40899_restore_while_a_request_is_being_handled() {
    let mut tables = tables();
    let object = tables.add("blob").expect("alive");
    let read = tables.read(object, 1).expect("alive");
    let first = tables.deliver().expect("the OPEN");
    tables.restore();
    let late = tables.answer(first.answer(), Reply::Open(Ok(1)));
    assert_eq!(late, Err(Refused::NotDelivered { request: first.request }), "it is nobody's now");
    let second = tables.deliver().expect("the same OPEN again");
    assert_eq!((second.request, second.body.kind()), (first.request, Kind::Open));
    assert_ne!(second.handle, first.handle);
    let late = tables.answer(first.answer(), Reply::Open(Ok(1)));
    assert!(
        matches!(late, Err(Refused::Handle { .. })),
        "the old daemon's answer does not open it: {late:?}"
    );
    tables.answer(second.answer(), Reply::Open(Ok(1))).expect("in hand");
    assert_eq!(tables.deliver().map(|message| message.request), Some(read));
}

#[test]
fn kernel_3e6d704f02aa_an_open_that_is_delivered_twice_makes_one_handle() {
    let mut tables = tables();
    let object = tables.add("blob").expect("alive");
    tables.open(object).expect("closed");
    assert_eq!(tables.open(object), Err(Refused::AlreadyOpen { object }), "queued");
    let message = tables.deliver().expect("the OPEN");
    assert_eq!(tables.open(object), Err(Refused::AlreadyOpen { object }), "in hand");
    assert!(tables.deliver().is_none(), "once");
    tables.answer(message.answer(), Reply::Open(Ok(1))).expect("in hand");
    assert_eq!(tables.open(object), Err(Refused::AlreadyOpen { object }), "open");
    assert_eq!(Refused::AlreadyOpen { object }.errno(), 17);
}

#[test]
fn cve_2024_40913_a_handle_that_is_given_back_early_takes_nothing_with_it() {
    let mut tables = tables();
    let object = tables.add("blob").expect("alive");
    let read = tables.read(object, 1).expect("alive");
    let open = tables.deliver().expect("the OPEN");
    tables.release(object, open.handle);
    assert_eq!(tables.state(object), Some(ObjectState::Reopening), "its reader has it opened again");
    let again = tables.deliver().expect("another OPEN");
    assert_ne!((again.request, again.handle), (open.request, open.handle));
    tables.answer(again.answer(), Reply::Open(Ok(1))).expect("in hand");
    assert_eq!(tables.deliver().map(|message| message.request), Some(read));
}

#[test]
fn cve_2024_40900_a_flushed_request_is_not_found_any_more() {
    let mut tables = tables();
    let (object, _) = opened(&mut tables);
    let new = tables.read(object, 1).expect("open");
    let taken = tables.deliver().expect("the READ");
    let hidden = tables.read(object, 2).expect("open");
    tables.kill();
    assert!(tables.deliver().is_none());
    for read in [new, hidden] {
        assert_eq!(tables.collect(read), Some(Ending::Dead));
    }
    assert!(matches!(tables.answer(taken.answer(), READ_OK), Err(Refused::Cancelled { .. })));
    assert!(tables.is_empty() && tables.is_all_idle());
}

#[test]
fn cve_2024_40935_nothing_is_entered_after_the_flush() {
    let mut tables = tables();
    let (object, _) = opened(&mut tables);
    let closed = tables.add("other").expect("alive");
    tables.kill();
    assert_eq!(tables.read(object, 1), Err(Refused::Dead));
    assert_eq!(tables.open(closed), Err(Refused::Dead));
    assert_eq!(tables.add("third"), Err(Refused::Dead));
    assert_eq!(tables.hold(object), Err(Refused::Dead));
    assert!(tables.is_empty());
}

#[test]
fn cve_2024_40935_a_dead_cache_takes_no_copen() {
    let mut tables = tables();
    let object = tables.add("blob").expect("alive");
    tables.open(object).expect("closed");
    let message = tables.deliver().expect("the OPEN");
    tables.kill();
    let late = tables.answer(message.answer(), Reply::Open(Ok(1)));
    assert_eq!(late, Err(Refused::Cancelled { request: message.request }));
    assert_eq!(tables.state(object), None);
}

#[test]
fn cve_2024_41075_an_answer_names_the_request_its_kind_and_its_object() {
    let mut tables = tables();
    let (one, _) = opened(&mut tables);
    let (two, handle_of_two) = opened(&mut tables);
    let request = tables.read(one, 1).expect("open");
    let message = tables.deliver().expect("the READ");
    let to = message.answer();
    let kind = tables.answer(to, Reply::Open(Ok(1)));
    assert_eq!(kind, Err(Refused::Kind { request, asked: Kind::Read, answered: Kind::Open }));
    let through_other = Answer { object: two, handle: handle_of_two, ..to };
    let refused = tables.answer(through_other, READ_OK);
    assert_eq!(refused, Err(Refused::Handle { request, handle: handle_of_two }));
    assert_eq!(refused.map_err(|refused| refused.errno()), Err(22));
    assert_eq!(tables.collect(request), None, "it still waits");
    tables.answer(to, READ_OK).expect("the right one");
    assert_eq!(tables.collect(request), Some(Ending::Answered(READ_OK)));
}

#[test]
fn cve_2024_41074_close_before_the_open_is_answered_leaves_no_object_reopening_for_ever() {
    let mut tables = tables();
    let object = tables.add("blob").expect("alive");
    let open = tables.open(object).expect("closed");
    let message = tables.deliver().expect("the OPEN");
    tables.release(object, message.handle);
    assert_eq!(tables.state(object), Some(ObjectState::Closed));
    assert_eq!(tables.collect(open), Some(Ending::Dropped));
    let late = tables.answer(message.answer(), Reply::Open(Ok(1)));
    assert_eq!(late, Err(Refused::UnknownRequest { request: open }));
    tables.read(object, 1).expect("closed");
    assert_eq!(tables.deliver().map(|message| message.body.kind()), Some(Kind::Open));
}

#[test]
fn cve_2024_41074_a_handle_given_back_late_does_not_close_the_next_opening() {
    let mut tables = tables();
    let (object, old) = opened(&mut tables);
    tables.release(object, old);
    tables.open(object).expect("closed");
    let message = tables.deliver().expect("the OPEN");
    tables.answer(message.answer(), Reply::Open(Ok(1))).expect("in hand");
    tables.release(object, old);
    assert_eq!(tables.state(object), Some(ObjectState::Open));
}

#[test]
fn cve_2024_41050_a_late_answer_meets_no_other_request() {
    let mut tables = tables();
    let (object, _) = opened(&mut tables);
    let first = tables.read(object, 1).expect("open");
    let message = tables.deliver().expect("the READ");
    tables.cancel(first);
    assert!(tables.answer(message.answer(), READ_OK).is_err());
    for n in 0..10_000 {
        let next = tables.read(object, n).expect("open");
        assert!(next > first);
        let answered = tables.answer(message.answer(), READ_OK);
        assert_eq!(answered, Err(Refused::UnknownRequest { request: first }));
        tables.cancel(next);
    }
}

#[test]
fn cve_2024_41051_a_drop_waits_for_the_workers() {
    let mut tables = tables();
    let (object, _) = opened(&mut tables);
    let read = tables.read(object, 1).expect("open");
    let message = tables.deliver().expect("the READ");
    tables.hold(object).expect("open");
    tables.drop_object(object);
    assert_eq!(tables.collect(read), Some(Ending::Dropped), "the reader does not wait for them");
    assert!(!tables.is_idle(object));
    assert!(tables.answer(message.answer(), READ_OK).is_err());
    assert!(!tables.is_idle(object), "the other one still works");
    tables.unhold(object);
    assert!(tables.is_idle(object));
    assert_eq!(kinds(&mut tables), [Kind::Close]);
    assert_eq!(tables.state(object), None);
}

#[test]
fn kernel_32eb47eab833_a_daemon_that_never_answers_does_not_hold_up_the_readers_of_what_is_dropped() {
    let mut tables = tables();
    let (object, _) = opened(&mut tables);
    let reads: Vec<_> = (0..8).map(|n| tables.read(object, n).expect("open")).collect();
    for _ in 0..4 {
        tables.deliver().expect("a READ");
    }
    tables.drop_object(object);
    for read in reads {
        assert_eq!(tables.collect(read), Some(Ending::Dropped));
    }
    assert_eq!(tables.read(object, 9), Err(Refused::Dropping { object }));
    assert_eq!(tables.hold(object), Err(Refused::Dropping { object }));
}

#[test]
fn an_answer_after_the_drop_is_refused() {
    let mut tables = tables();
    let (object, _) = opened(&mut tables);
    let read = tables.read(object, 1).expect("open");
    let message = tables.deliver().expect("the READ");
    tables.drop_object(object);
    assert_eq!(tables.answer(message.answer(), READ_OK), Err(Refused::Cancelled { request: read }));
}

#[test]
fn cve_2024_42250_what_ends_while_the_queue_is_looked_at_is_skipped() {
    let mut tables = tables();
    let (object, _) = opened(&mut tables);
    let first = tables.read(object, 1).expect("open");
    let second = tables.read(object, 2).expect("open");
    tables.cancel(first);
    assert_eq!(tables.deliver().map(|message| message.request), Some(second));
    tables.cancel(second);
    assert!(tables.deliver().is_none());
}

#[test]
fn kernel_bc9dde615546_a_reader_can_be_killed_at_any_time() {
    for steps in 0..4 {
        let mut tables = tables();
        let object = tables.add("blob").expect("alive");
        let read = tables.read(object, 1).expect("alive");
        let open = (steps > 0).then(|| tables.deliver().expect("the OPEN"));
        if let (Some(open), true) = (&open, steps > 1) {
            tables.answer(open.answer(), Reply::Open(Ok(1))).expect("in hand");
        }
        let taken = (steps > 2).then(|| tables.deliver().expect("the READ"));
        tables.cancel(read);
        if let Some(taken) = taken {
            assert_eq!(tables.answer(taken.answer(), READ_OK), Err(Refused::Cancelled { request: read }));
        }
        // An OPEN goes on without its reader; nothing else is left.
        tables.drop_object(object);
        if let (Some(open), true) = (&open, steps == 1) {
            assert!(tables.answer(open.answer(), Reply::Open(Ok(1))).is_err());
        }
        kinds(&mut tables);
        assert!(tables.is_empty() && tables.state(object).is_none(), "killed after step {steps}");
    }
}

#[test]
fn cve_2024_41057_an_object_entered_while_everything_ends_is_flushed_or_refused() {
    let mut tables = tables();
    let object = tables.add("blob").expect("alive");
    let open = tables.open(object).expect("closed");
    tables.kill();
    assert_eq!(tables.collect(open), Some(Ending::Dead));
    assert_eq!(tables.add("blob"), Err(Refused::Dead));
    assert_eq!(tables.state(object), None);
}

#[test]
fn cve_2024_49870_a_failed_open_leaves_no_handle_and_the_next_read_tries_again() {
    let mut tables = tables();
    let object = tables.add("blob").expect("alive");
    let hidden = [tables.read(object, 1).expect("alive"), tables.read(object, 2).expect("alive")];
    let message = tables.deliver().expect("the OPEN");
    tables.answer(message.answer(), Reply::Open(Err(EIO))).expect("in hand");
    for read in hidden {
        assert_eq!(tables.collect(read), Some(Ending::Answered(Reply::Read(Err(EIO)))), "errno is kept");
    }
    assert_eq!(tables.state(object), Some(ObjectState::Closed));
    assert!(tables.is_empty());
    tables.read(object, 3).expect("closed");
    assert_eq!(tables.deliver().map(|message| message.body.kind()), Some(Kind::Open));
    tables.drop_object(object);
}

#[test]
fn restart_with_requests_in_hand_every_unanswered_one_is_delivered_again() {
    let mut tables = tables();
    let (object, old) = opened(&mut tables);
    let reads: Vec<_> = (0..4).map(|n| tables.read(object, n).expect("open")).collect();
    let in_hand: Vec<_> = (0..2).map(|_| tables.deliver().expect("a READ")).collect();
    tables.answer(in_hand[0].answer(), READ_OK).expect("in hand");
    tables.restore();
    let open = tables.deliver().expect("an OPEN");
    assert_eq!(open.body.kind(), Kind::Open, "READs are hidden until it is answered");
    assert_ne!(open.handle, old);
    assert!(tables.deliver().is_none());
    tables.answer(open.answer(), Reply::Open(Ok(1))).expect("in hand");
    let again: Vec<_> = std::iter::from_fn(|| tables.deliver()).map(|message| message.request).collect();
    assert_eq!(again, reads[1..], "in order, and not the one that was answered");
}

#[test]
fn flood_at_shutdown_everything_that_waits_ends_and_nothing_is_left() {
    let mut tables = tables();
    let mut reads = Vec::new();
    for n in 0..16 {
        let object = tables.add("blob").expect("alive");
        reads.extend((0..200).map(|read| tables.read(object, read).expect("alive")));
        if n % 2 == 0 {
            let open = tables.deliver().expect("an OPEN");
            tables.answer(open.answer(), Reply::Open(Ok(1))).expect("in hand");
        }
    }
    let in_hand: Vec<_> = (0..500).filter_map(|_| tables.deliver()).collect();
    tables.kill();
    assert!(reads.iter().all(|read| tables.collect(*read) == Some(Ending::Dead)));
    for message in in_hand {
        let reply = if message.body.kind() == Kind::Open { Reply::Open(Ok(1)) } else { READ_OK };
        assert!(matches!(tables.answer(message.answer(), reply), Err(Refused::Cancelled { .. })));
    }
    assert!(tables.is_empty() && tables.is_all_idle());
}

#[test]
fn objects_take_turns_and_one_with_many_reads_does_not_hold_up_another() {
    let mut tables = tables();
    let (greedy, _) = opened(&mut tables);
    let (modest, _) = opened(&mut tables);
    for n in 0..1000 {
        tables.read(greedy, n).expect("open");
    }
    tables.read(modest, 0).expect("open");
    let turns: Vec<ObjectId> =
        (0..3).filter_map(|_| tables.deliver()).map(|message| message.object).collect();
    assert!(turns[..2].contains(&modest), "{turns:?}");
}

#[test]
fn what_may_wait_and_what_may_be_in_hand_is_bounded() {
    let limits = Limits { objects_max: 1, reads_per_object_max: 3, in_hand_per_object_max: 2 };
    let mut tables = T::new(limits);
    let (object, _) = opened(&mut tables);
    assert_eq!(tables.add("two"), Err(Refused::Full { limit: 1 }));
    for n in 0..3 {
        tables.read(object, n).expect("under the bound");
    }
    assert_eq!(tables.read(object, 3), Err(Refused::Full { limit: 3 }));
    let first = tables.deliver().expect("a READ");
    assert!(tables.deliver().is_some() && tables.deliver().is_none());
    tables.answer(first.answer(), READ_OK).expect("in hand");
    assert!(tables.deliver().is_some(), "its place is free again");
    tables.read(object, 3).expect("and so is its place in the queue");
}
