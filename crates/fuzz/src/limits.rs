//! What an input may cost: memory by a limit of the process, processor time and standstill by a thread that watches.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{io, thread};

use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

/// Memory that a target may take beside what the process has at its start.
pub const MEMORY_BYTES_MAX: u64 = 256 << 20;
/// Processor time for an input: on a busy machine the clock says nothing.
pub const PROCESSOR_TIME_MAX: Duration = Duration::from_secs(1);
/// An input that is not done after so many looks, two minutes or more, waits for something that never comes. The clock
/// would go on while the whole process is stopped.
const LOOKS_MAX: u32 = 2400;
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Limits the memory that this process can write to (`RLIMIT_DATA`, getrlimit(2)): heap, mappings and stacks, of C
/// libraries too, but not what allocators only reserve.
pub fn limit_memory() -> io::Result<()> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let at_start = status.lines().find_map(|line| line.strip_prefix("VmData:")?.trim().strip_suffix(" kB"));
    let at_start: u64 = at_start.and_then(|kib| kib.trim().parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    let mut limit = getrlimit(Resource::Data);
    limit.current = Some(at_start * 1024 + MEMORY_BYTES_MAX);
    Ok(setrlimit(Resource::Data, limit)?)
}

/// Ends this process when the input whose number is in `at_hand` takes too long.
pub fn watch(at_hand: &'static AtomicU64) {
    thread::spawn(move || {
        let mut seen = (u64::MAX, processor_time(), 0);
        loop {
            thread::sleep(LOOK_EVERY);
            let number = at_hand.load(Ordering::Relaxed);
            if number != seen.0 {
                seen = (number, processor_time(), 0);
                continue;
            }
            seen.2 += 1;
            let spent = processor_time().saturating_sub(seen.1);
            if spent > PROCESSOR_TIME_MAX || seen.2 > LOOKS_MAX {
                eprintln!("input {number} is not done after {spent:?} of processor time");
                std::process::abort();
            }
        }
    });
}

/// Time that processors have spent on this process.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}
