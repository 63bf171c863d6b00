//! What a worker does with a group that an earlier one had, before it reads the first event.
//!
//! The keeper has held the group, so that every reader still waits. Those that the dead worker had taken are known
//! only by the numbers their event descriptors had *there*; the kernel answers the oldest question with a number,
//! and may give the same number to a new event in this process. Hence:
//!
//! 1. The numbers in the journal are put out of use here, so that no new event can get one until they are answered.
//! 2. Every other number is denied until the kernel knows it no more: what was read but not yet entered.
//! 3. Events are read; the questions of the journal are answered beside them, as their bytes come.

use std::collections::HashSet;
use std::os::fd::RawFd;
use std::sync::Arc;

use super::group::Group;
use super::question::{Question, deny_all};
use crate::sys::process::occupy;

/// What an earlier worker has left.
pub(super) struct Recovered {
    /// Its questions.
    pub(super) questions: Vec<Question>,
    /// Before the first event is read, nobody else may hold this.
    pub(super) gate: Arc<()>,
}

/// Takes over the questions of an earlier worker.
pub(super) fn recover(group: &Arc<Group>) -> Recovered {
    let gate = Arc::new(());
    let entries = group.journal().taken();
    let taken: HashSet<RawFd> = entries.iter().map(|entry| entry.number).collect();
    let questions: Vec<_> = entries
        .into_iter()
        .map(|entry| {
            // A copy of the group: any descriptor does, but opening one could take the very number.
            let placeholder = occupy(entry.number, group.fd());
            // The number is in use here for something else: it must be answered before that may end.
            let gate = placeholder.is_none().then(|| Arc::clone(&gate));
            Question::inherited(group, entry, placeholder, gate)
        })
        .collect();
    let denied = sweep(group, &taken);
    tracing::info!(taken = questions.len(), denied, "took over the questions of an earlier worker");
    Recovered { questions, gate }
}

/// Denies whatever has a number outside `taken`; returns how many questions that were.
fn sweep(group: &Group, taken: &HashSet<RawFd>) -> usize {
    let end = RawFd::try_from(group.journal().slots()).unwrap_or(RawFd::MAX);
    (0..end).filter(|number| !taken.contains(number)).map(|number| deny_all(group, number)).sum()
}
