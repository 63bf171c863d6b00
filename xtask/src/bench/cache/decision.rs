//! `prepare_ondemand_read` on present bytes: its time, its allocations, and what a second thread adds.

use std::hint::black_box;
use std::path::Path;
use std::sync::Barrier;
use std::time::Instant;

use larder_fscache::{
    AuxData, Cache, CacheResources, CookieKey, IoSource, ObjectRange, ObjectSpec, ReadFlags, VolumeKey,
};

use super::super::pinned::Pinned;
use super::super::stats::{Row, Target, median};
use super::allocations;
use super::many::open;

const SIZE: u64 = 64 << 20;
const WANT_BYTES: u64 = 128 << 10;
const CALLS: u64 = 10_000_000;

/// Runs the benchmark.
pub fn run(dir: &Path, rounds: usize) -> anyhow::Result<Vec<Row>> {
    let cache = Cache::new(open(&dir.join("decision"))?);
    let volume = cache.acquire_volume(&VolumeKey::new("bench")?, &AuxData::default())?;
    let resources = volume.open(&CookieKey::new("present")?, &ObjectSpec::of_size(SIZE))?;
    let chunk = vec![7; 1 << 20];
    for at in (0..SIZE).step_by(chunk.len()) {
        resources.write(at, &chunk)?;
    }
    let before = allocations::of_this_thread();
    let one_call = ask(&resources, 1000)?;
    let allocated = allocations::of_this_thread() - before;
    black_box(one_call);
    let (mut one, mut two) = (Vec::new(), Vec::new());
    for _ in 0..rounds.max(3) {
        let pinned = Pinned::here()?;
        one.push(ask(&resources, CALLS)?);
        drop(pinned);
        two.push(ask_on_two_threads(&resources)?);
    }
    let (one, two) = (median(one), median(two));
    Ok(vec![
        Row {
            name: "prepare_ondemand_read, present (ns)".into(),
            larder: format!("{one:.1} ns"),
            peer: "-".into(),
            figure: one,
            target: Target::AtMost(100.0),
        },
        Row {
            name: "allocations in 1000 of them".into(),
            larder: allocated.to_string(),
            peer: "-".into(),
            figure: allocated as f64,
            target: Target::AtMost(0.0),
        },
        Row {
            name: "calls of two threads, against one".into(),
            larder: format!("{:.1} M/s", 2e3 / two),
            peer: format!("{:.1} M/s", 1e3 / one),
            figure: 2.0 * one / two,
            target: Target::AtLeast(1.8),
        },
    ])
}

/// Nanoseconds a call.
fn ask(resources: &CacheResources, calls: u64) -> anyhow::Result<f64> {
    let (mut at, mut missed) = (0, 0_u64);
    let start = Instant::now();
    for _ in 0..calls {
        // A stride that is no multiple of anything: every call finds other words of the map.
        at = (at + 1_052_677) % (SIZE - WANT_BYTES);
        let want = ObjectRange::at(black_box(at), WANT_BYTES);
        let decision = resources.prepare_ondemand_read(want, u64::MAX, ReadFlags::empty())?;
        missed += u64::from(decision.source != IoSource::ReadFromCache);
    }
    let took = start.elapsed();
    anyhow::ensure!(missed == 0, "{missed} of {calls} calls found a hole");
    Ok(took.as_secs_f64() * 1e9 / calls as f64)
}

/// Nanoseconds a call of either thread, while both run: each with an operation of its own, as front ends have, and on a
/// processor of its own. Left to the scheduler they share one for up to a second at times.
fn ask_on_two_threads(resources: &CacheResources) -> anyhow::Result<f64> {
    let begin = Barrier::new(2);
    let ask_one = |processor| {
        let resources = resources.clone();
        let pinned = Pinned::on(processor);
        // The other waits here too, whatever became of this one.
        begin.wait();
        let _pinned = pinned?;
        ask(&resources, CALLS)
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| ask_one(1));
        let mine = ask_one(0)?;
        let others = other.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        Ok(mine.max(others))
    })
}
