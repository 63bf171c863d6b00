//! [`Pinned`]: a thread that stays on one processor.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Keeps the thread that made it, and the programs that this starts, on one processor until it is dropped: there, by the
/// same thread.
pub struct Pinned {
    before: CpuSet,
}

impl Pinned {
    /// On the first processor that this thread may use.
    pub fn here() -> anyhow::Result<Self> {
        Self::on(0)
    }

    /// On the `number`th, from 0, of the processors that this thread may use, or on the first again after the last.
    pub fn on(number: usize) -> anyhow::Result<Self> {
        let before = sched_getaffinity(None)?;
        let usable: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&cpu| before.is_set(cpu)).collect();
        let mut one = CpuSet::new();
        one.set(usable[number % usable.len()]);
        sched_setaffinity(None, &one)?;
        Ok(Self { before })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Err(error) = sched_setaffinity(None, &self.before) {
            eprintln!("bench: the thread stays on its processor: {error}");
        }
    }
}
