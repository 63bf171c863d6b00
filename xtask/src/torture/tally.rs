//! [`Tally`]: what happened, by name.

use std::collections::BTreeMap;

use larder_faults::Counts;

use super::violation::Violation;

/// Outcomes of reads of trees whose bytes were compared with the truth.
pub const TREE_RIGHT: &str = "tree right";
pub const TREE_WRONG: &str = "tree wrong";

/// What happened in a round, or in all of them.
#[derive(Debug, Default)]
pub struct Tally {
    /// Reads by outcome: `right`, or the name of an error.
    pub reads: BTreeMap<String, u64>,
    /// Bytes that were compared with the truth.
    pub bytes: u64,
    /// What was done to Larder: kills, restarts, culls, by name.
    pub deeds: BTreeMap<String, u64>,
    /// Faults that struck, by site and kind.
    pub faults: Counts,
    /// What must not have happened.
    pub violations: Vec<Violation>,
}

impl Tally {
    /// Counts a deed.
    pub fn did(&mut self, deed: impl Into<String>) {
        *self.deeds.entry(deed.into()).or_default() += 1;
    }

    /// Counts a read.
    pub fn read(&mut self, outcome: impl Into<String>, bytes: usize) {
        *self.reads.entry(outcome.into()).or_default() += 1;
        self.bytes += bytes as u64;
    }

    /// Reads of trees whose bytes were compared with the truth.
    pub fn tree_reads(&self) -> u64 {
        let compared = [TREE_RIGHT, TREE_WRONG];
        compared.iter().filter_map(|outcome| self.reads.get(*outcome)).sum()
    }

    /// Takes note of a violation.
    pub fn violate(&mut self, violation: Violation) {
        eprintln!("torture: VIOLATION: {violation}");
        self.violations.push(violation);
    }

    /// Adds another one's figures.
    pub fn add(&mut self, other: Self) {
        for (outcome, times) in other.reads {
            *self.reads.entry(outcome).or_default() += times;
        }
        for (deed, times) in other.deeds {
            *self.deeds.entry(deed).or_default() += times;
        }
        self.bytes += other.bytes;
        self.faults.add(&other.faults);
        self.violations.extend(other.violations);
    }
}

/// The name of an error number, as errno(3) has it.
pub fn errno_name(error: &std::io::Error) -> String {
    use rustix::io::Errno;
    let Some(errno) = Errno::from_io_error(error) else { return format!("{:?}", error.kind()) };
    let known = [
        (Errno::IO, "EIO"),
        (Errno::NOSPC, "ENOSPC"),
        (Errno::NOENT, "ENOENT"),
        (Errno::NOTCONN, "ENOTCONN"),
        (Errno::CONNABORTED, "ECONNABORTED"),
        (Errno::STALE, "ESTALE"),
        (Errno::MFILE, "EMFILE"),
        (Errno::NOMEM, "ENOMEM"),
        (Errno::INTR, "EINTR"),
        (Errno::UCLEAN, "EUCLEAN"),
    ];
    let name = known.iter().find(|(number, _)| *number == errno).map(|(_, name)| (*name).to_owned());
    name.unwrap_or_else(|| format!("errno {}", errno.raw_os_error()))
}
