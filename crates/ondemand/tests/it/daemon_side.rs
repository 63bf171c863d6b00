//! The tables as a front end uses whose daemon is another process: messages are taken, answered, repeated, refused.
//!
//! The daemon here is a task that reads messages the way one reads `/dev/cachefiles`.

use std::sync::Arc;

use larder_ondemand::table::{
    Body, Ending, Kind, Limits, Message, ObjectId, ObjectState, Refused, Reply, SharedTables, Tables,
};

type Shared = SharedTables<&'static str, (u64, u64), i32>;

const EIO: i32 = 5;
const ENOENT: i32 = 2;

fn shared() -> (Arc<Shared>, ObjectId) {
    let tables = Shared::new(Limits::default());
    let object = tables.step(|tables| tables.add("erofs,image/blob")).expect("alive");
    (tables, object)
}

async fn next(tables: &Shared, kind: Kind) -> Message<&'static str, (u64, u64)> {
    let message = tables.message().await;
    assert_eq!(message.body.kind(), kind);
    message
}

fn read(tables: &Arc<Shared>, object: ObjectId) -> tokio::task::JoinHandle<Result<Ending<i32>, Refused>> {
    let tables = Arc::clone(tables);
    tokio::spawn(async move { Ok(tables.read(object, (4096, 8192)).await?.await) })
}

#[tokio::test]
async fn open_read_close() {
    let (tables, object) = shared();
    let mount = tables.open(object).expect("closed");
    let open = next(&tables, Kind::Open).await;
    assert_eq!(open.payload, "erofs,image/blob");
    tables.answer(open.answer(), Reply::Open(Ok(1 << 20))).expect("in hand");
    assert_eq!(mount.await, Ending::Answered(Reply::Open(Ok(1 << 20))));

    let reader = read(&tables, object);
    let message = next(&tables, Kind::Read).await;
    assert_eq!((message.body.clone(), message.handle), (Body::Read((4096, 8192)), open.handle));
    tables.answer(message.answer(), Reply::Read(Ok(()))).expect("in hand");
    assert_eq!(reader.await.expect("no panic"), Ok(Ending::Answered(Reply::Read(Ok(())))));

    tables.drop_object(object).await;
    assert_eq!(next(&tables, Kind::Close).await.handle, open.handle);
    tables.step(|tables| assert!(tables.is_empty() && tables.state(object).is_none()));
}

#[tokio::test]
async fn a_daemon_that_dies_is_followed_by_one_that_gets_everything_again() {
    let (tables, object) = shared();
    let reader = read(&tables, object);
    let open = next(&tables, Kind::Open).await;
    tables.answer(open.answer(), Reply::Open(Ok(1))).expect("in hand");
    let message = next(&tables, Kind::Read).await;

    // It is gone with the READ in hand; the device is held by somebody else, who lets the next one restore.
    tables.step(Tables::restore);
    assert_eq!(tables.step(|tables| tables.state(object)), Some(ObjectState::Reopening));
    assert!(tables.answer(message.answer(), Reply::Read(Ok(()))).is_err(), "too late: it was taken back");

    let again = next(&tables, Kind::Open).await;
    assert!(again.handle > open.handle);
    tables.answer(again.answer(), Reply::Open(Ok(1))).expect("in hand");
    let message = next(&tables, Kind::Read).await;
    tables.answer(message.answer(), Reply::Read(Ok(()))).expect("in hand");
    assert_eq!(reader.await.expect("no panic"), Ok(Ending::Answered(Reply::Read(Ok(())))));
}

#[tokio::test]
async fn a_handle_closed_by_the_daemon_is_opened_again_for_the_next_reader() {
    let (tables, object) = shared();
    let mount = tables.open(object).expect("closed");
    let open = next(&tables, Kind::Open).await;
    tables.answer(open.answer(), Reply::Open(Ok(1))).expect("in hand");
    mount.await;
    tables.step(|tables| tables.release(object, open.handle));
    assert_eq!(tables.step(|tables| tables.state(object)), Some(ObjectState::Closed));

    let reader = read(&tables, object);
    let again = next(&tables, Kind::Open).await;
    assert!(tables.deliver().is_none(), "the READ is hidden until then");
    tables.answer(again.answer(), Reply::Open(Ok(1))).expect("in hand");
    let message = next(&tables, Kind::Read).await;
    tables.answer(message.answer(), Reply::Read(Err(EIO))).expect("in hand");
    assert_eq!(reader.await.expect("no panic"), Ok(Ending::Answered(Reply::Read(Err(EIO)))), "errno is kept");
}

#[tokio::test]
async fn a_refused_open_fails_the_readers_behind_it_and_the_next_one_asks_again() {
    let (tables, object) = shared();
    let reader = read(&tables, object);
    let open = next(&tables, Kind::Open).await;
    tables.answer(open.answer(), Reply::Open(Err(ENOENT))).expect("in hand");
    assert_eq!(reader.await.expect("no panic"), Ok(Ending::Answered(Reply::Read(Err(ENOENT)))));
    let _reader = read(&tables, object);
    next(&tables, Kind::Open).await;
}

#[tokio::test]
async fn a_mount_given_up_before_its_open_is_answered_leaves_nothing() {
    let (tables, object) = shared();
    let mount = tables.open(object).expect("closed");
    let open = next(&tables, Kind::Open).await;
    drop(mount);
    let dropping = tokio::spawn({
        let tables = Arc::clone(&tables);
        async move { tables.drop_object(object).await }
    });
    tables.going(object).await;
    assert_eq!(
        tables.answer(open.answer(), Reply::Open(Ok(1))),
        Err(Refused::Cancelled { request: open.request })
    );
    dropping.await.expect("no panic");
    assert_eq!(next(&tables, Kind::Close).await.handle, open.handle, "the daemon has a handle all the same");
    tables.step(|tables| assert!(tables.is_empty() && tables.state(object).is_none()));
}
