//! [`Spent`]: what a run took, by the clock and by the processors.
//!
//! On a machine that others use the clock tells how busy they are. The time that processors gave to the program itself
//! hardly changes, so every ratio stands there twice.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::super::stats::{Row, Target, median};

/// What the kernel counts processor time in for user space: `USER_HZ` is 100, include/asm-generic/param.h.
const TICK: Duration = Duration::from_millis(10);

/// What one run took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    /// By the clock.
    pub wall: Duration,
    /// On all processors, for the program and for the kernel in its name; in steps of a clock tick, 10 ms.
    pub processor: Duration,
}

/// Runs a command to its end and returns what it took.
pub fn timed(command: &mut Command) -> anyhow::Result<Spent> {
    let shown = format!("{command:?}");
    let (start, before) = (Instant::now(), of_children()?);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let child = child.with_context(|| format!("{shown} could not be started"))?;
    end(child, &shown)?;
    Ok(Spent { wall: start.elapsed(), processor: of_children()? - before })
}

/// Waits for a child, which must succeed.
pub fn end(child: Child, shown: &str) -> anyhow::Result<()> {
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{shown} failed with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// Processor time of all children that have ended and were waited for: proc_pid_stat(5), fields 16 and 17.
pub fn of_children() -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The name, in brackets, is the second field and may hold anything.
    let (_, fields) = stat.rsplit_once(") ").context("/proc/self/stat has no name")?;
    let ticks = fields.split(' ').skip(13).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(TICK * u32::try_from(ticks)?)
}

/// How many times as fast Larder must be.
#[derive(Clone, Copy, Debug)]
pub enum Faster {
    /// By the clock and by the processors.
    Both(f64),
    /// By the clock: several threads share the work, and what the processors spend in all is for information.
    Clock(f64),
}

impl Faster {
    /// The targets by the clock and by the processors.
    fn targets(self) -> [Target; 2] {
        match self {
            Self::Both(times) => [Target::AtLeast(times); 2],
            Self::Clock(times) => [Target::AtLeast(times), Target::None],
        }
    }
}

/// Has both sides run in turns and compares medians: how many times as fast Larder is.
pub fn turns(
    name: &str,
    target: Faster,
    rounds: usize,
    mut ours: impl FnMut() -> anyhow::Result<Spent>,
    mut theirs: impl FnMut() -> anyhow::Result<Spent>,
) -> anyhow::Result<Vec<Row>> {
    let (mut here, mut there) = (Vec::new(), Vec::new());
    for _ in 0..rounds.max(1) {
        here.push(ours()?);
        there.push(theirs()?);
    }
    Ok(compare(name, target, &here, &there))
}

/// The rows of a comparison: by the clock and by the processors.
pub fn compare(name: &str, target: Faster, here: &[Spent], there: &[Spent]) -> Vec<Row> {
    let [clock, processor] = target.targets();
    let row = |name: String, target: Target, figure: fn(&Spent) -> Duration| {
        let seconds = |runs: &[Spent]| median(runs.iter().map(|spent| figure(spent).as_secs_f64()).collect());
        let (here, there) = (seconds(here), seconds(there));
        Row {
            name,
            larder: format!("{here:.2} s"),
            peer: format!("{there:.2} s"),
            figure: there / here,
            target,
        }
    };
    vec![
        row(name.to_owned(), clock, |spent| spent.wall),
        row(format!("{name}, processor"), processor, |spent| spent.processor),
    ]
}
