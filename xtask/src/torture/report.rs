//! The report: a table for people, JSON for programs.

use std::time::Duration;

use larder_faults::Kind as Fault;
use serde_json::{Map, Value, json};

use super::tally::Tally;
use super::violation::Kind;

/// Prints what happened.
pub fn print(seed: u64, rounds: u64, took: Duration, tally: &Tally, json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(&document(seed, rounds, took, tally))?);
        return Ok(());
    }
    println!(
        "seed {seed}: {rounds} rounds in {:.0} s, {:.1} MB compared, {} reads of trees among them",
        took.as_secs_f64(),
        tally.bytes as f64 / 1e6,
        tally.tree_reads()
    );
    println!("{} kills", kills(tally));
    table("reads by outcome", tally.reads.iter().map(|(name, times)| (name.clone(), *times)));
    table("done to Larder", tally.deeds.iter().map(|(name, times)| (name.clone(), *times)));
    let faults =
        tally.faults.all().map(|count| (format!("{} {}", count.site.name(), count.kind.name()), count.times));
    table("faults injected", faults);
    let violated = Kind::ALL.map(|kind| (kind.name().to_owned(), violations(tally, kind)));
    table("violations", violated.into_iter());
    for violation in &tally.violations {
        println!("  {violation}");
    }
    Ok(())
}

/// Deaths by a signal and at a named point. Those for want of memory are not seen.
fn kills(tally: &Tally) -> u64 {
    let by_signal = tally.deeds.iter().filter(|(deed, _)| deed.ends_with(" killed")).map(|(_, times)| times);
    let at_points = tally.faults.all().filter(|count| count.kind == Fault::Die).map(|count| count.times);
    by_signal.sum::<u64>() + at_points.sum::<u64>()
}

fn violations(tally: &Tally, kind: Kind) -> u64 {
    tally.violations.iter().filter(|violation| violation.kind == kind).count() as u64
}

fn table(title: &str, rows: impl Iterator<Item = (String, u64)>) {
    println!("\n{title}");
    for (name, times) in rows {
        println!("  {name:<44} {times:>9}");
    }
}

fn document(seed: u64, rounds: u64, took: Duration, tally: &Tally) -> Value {
    let mut faults = Map::new();
    for count in tally.faults.all() {
        faults.entry(count.site.name()).or_insert_with(|| json!({}))[count.kind.name()] = count.times.into();
    }
    let violated: Map<String, Value> = Kind::ALL
        .iter()
        .map(|kind| (kind.name().replace(' ', "_"), violations(tally, *kind).into()))
        .collect();
    let told: Vec<String> = tally.violations.iter().map(ToString::to_string).collect();
    json!({
        "seed": seed,
        "rounds": rounds,
        "took_ms": took.as_secs_f64() * 1e3,
        "compared_bytes": tally.bytes,
        "compared_tree_reads": tally.tree_reads(),
        "kills": kills(tally),
        "reads": tally.reads,
        "done": tally.deeds,
        "faults": faults,
        "violations": violated,
        "violations_told": told,
    })
}
