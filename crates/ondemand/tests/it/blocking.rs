//! The raw API of fscache as a client uses that waits on a thread of its own: one call from a hole to present bytes.

use std::{sync::atomic::Ordering::SeqCst, thread};

use larder_fscache::{Error, IoSource, ReadFlags};

use crate::common::{Fixture, KIB, Link, MIB, at, engine_with, no_readahead};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

#[test]
fn a_hole_is_brought_while_the_caller_waits_and_the_decision_is_taken_again() {
    let runtime = runtime();
    let link = Link::new(std::time::Duration::from_millis(1), 1_000_000_000);
    let (fixture, engine) =
        runtime.block_on(async { (Fixture::new(MIB, 64 * KIB, &link), engine_with(no_readahead())) });
    let ask =
        || fixture.blob.resources().prepare_ondemand_read(at(0, 4 * KIB), u64::MAX, ReadFlags::ONDEMAND);
    assert_eq!(ask().expect("nobody brings").source, IoSource::DownloadFromServer);
    engine.bring_for(&fixture.blob);
    let decisions: Vec<_> = thread::scope(|scope| {
        let asking: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
        asking.into_iter().map(|asking| asking.join().expect("no panic")).collect()
    });
    for decision in decisions {
        assert_eq!(decision.expect("the source is well").source, IoSource::ReadFromCache);
    }
    fixture.assert_present(0..4 * KIB);
    assert_eq!(fixture.source.coverage(0..64 * KIB), (1, 1));
}

#[test]
fn p3_a_failure_has_its_errno_and_does_not_last() {
    let runtime = runtime();
    let link = Link::new(std::time::Duration::from_millis(1), 1_000_000_000);
    let (fixture, engine) =
        runtime.block_on(async { (Fixture::new(MIB, 64 * KIB, &link), engine_with(no_readahead())) });
    engine.bring_for(&fixture.blob);
    fixture.source.failures.store(1, SeqCst);
    let ask =
        || fixture.blob.resources().prepare_ondemand_read(at(0, 4 * KIB), u64::MAX, ReadFlags::ONDEMAND);
    assert!(matches!(ask(), Err(Error::Bring { errno: 5, .. })));
    assert_eq!(ask().expect("the source is well again").source, IoSource::ReadFromCache);
}
