//! Reading when nothing goes wrong any more: an error passes only for as long as one of the faults before may be its cause.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::super::desk::Desk;
use super::super::violation::{Kind, Violation};

/// Reads in calm weather.
const CALM_STEPS: u64 = 40;

/// How long after the end of the faults an error may still come from one of them: from a fetch that had begun before, or
/// from who stands in for workers that the faults had killed, which is a minute at most, and the start of the next one.
const AFTERMATH: Duration = Duration::from_secs(90);

/// Takes every step, again while it fails with what `read` returns; `Err` has what was read, and why it failed.
pub fn read_calmly(desk: &Desk, read: impl Fn(u64) -> Result<(), (String, String)>) {
    let began = Instant::now();
    for step in (0..CALM_STEPS).take_while(|_| !desk.is_stopped()) {
        while let Err((words, error)) = read(step) {
            if began.elapsed() > AFTERMATH {
                let what = format!("{words}: {error}, long after its cause had gone");
                return desk.tally().violate(Violation::new(Kind::Error, what));
            }
            sleep(Duration::from_millis(50));
        }
    }
}
