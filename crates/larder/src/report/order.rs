//! [`Arrivals`]: which chunk came when, and why.

use crate::api::types::{Fill, Records};

/// Steps of a colour from the first arrival to the last.
pub(super) const STEPS: usize = 8;

/// Why bytes were fetched.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Cause {
    /// A reader waited for them.
    Demand,
    /// A sequential reader would have asked for them next.
    Readahead,
    /// A recorded access profile named them.
    Profile,
    /// Nobody had asked yet: metadata at mount time, lists.
    Ahead,
}

impl Cause {
    pub(super) const ALL: [Self; 4] = [Self::Demand, Self::Readahead, Self::Profile, Self::Ahead];

    pub(super) fn of(fill: &Fill) -> Self {
        match fill.cause.as_str() {
            "demand" => Self::Demand,
            "readahead" => Self::Readahead,
            "profile" => Self::Profile,
            _ => Self::Ahead,
        }
    }

    /// The first letter of the style's class names.
    pub(super) fn class(self) -> char {
        match self {
            Self::Demand => 'd',
            Self::Readahead => 'r',
            Self::Profile => 'f',
            Self::Ahead => 'p',
        }
    }

    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Demand => "a reader waited for it",
            Self::Readahead => "read ahead",
            Self::Profile => "named by an access profile",
            Self::Ahead => "fetched at mount time",
        }
    }
}

/// One fill in the order of arrival.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) cause: Cause,
    /// `0..STEPS`, the earliest first.
    pub(super) step: usize,
    /// Since the first record.
    pub(super) at_ms: f64,
}

/// The fills of the blob at position `blob`, in the order of arrival; what failed, or lies
/// outside of the blob, is dropped.
pub(super) fn arrivals(records: &Records, blob: usize) -> Vec<Arrival> {
    let Some(layout) = records.blobs.get(blob) else { return Vec::new() };
    let origin = origin_ms(records);
    let mut fills: Vec<&Fill> =
        records.fills.iter().filter(|fill| fill.ok && fill.at_ms.is_finite()).collect();
    fills.sort_by(|a, b| a.at_ms.total_cmp(&b.at_ms));
    let count = fills.len().max(1);
    let of_blob = fills.into_iter().enumerate().filter(|(_, fill)| fill.blob == blob);
    of_blob
        .map(|(position, fill)| Arrival {
            start: fill.start,
            end: fill.end.min(layout.size_bytes),
            cause: Cause::of(fill),
            step: position * STEPS / count,
            at_ms: fill.at_ms - origin,
        })
        .filter(|arrival| arrival.start < arrival.end)
        .collect()
}

/// When the first record began, in the records' own time.
pub(super) fn origin_ms(records: &Records) -> f64 {
    let fills = records.fills.iter().map(|fill| fill.at_ms - fill.took_ms);
    let faults = records.faults.iter().map(|fault| fault.at_ms - fault.waited_ms);
    let first = fills.chain(faults).filter(|at| at.is_finite()).fold(f64::INFINITY, f64::min);
    if first.is_finite() { first } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use larder_ondemand::Cause as Filled;

    use super::*;

    fn fill(cause: &str) -> Fill {
        let (at_ms, took_ms, cause) = (0.0, 1.0, cause.to_owned());
        Fill { at_ms, blob: 0, start: 0, end: 1, stored_bytes: 1, cause, took_ms, ok: true }
    }

    #[test]
    fn each_cause_of_the_engine_has_a_class_and_the_style_a_colour_for_it() {
        let style = include_str!("style.css");
        let causes = [Filled::Demand { pid: None }, Filled::Readahead, Filled::Profile, Filled::Prefetch];
        let classes = causes.map(|cause| {
            let class = Cause::of(&fill(cause.as_str())).class();
            let last = STEPS - 1;
            assert!(style.contains(&format!(".{class}{last} {{")), "{cause:?}");
            assert!(style.contains(&format!(".box.{class} {{")), "{cause:?}");
            class
        });
        assert_eq!(BTreeSet::from(classes).len(), causes.len());
        assert_eq!(BTreeSet::from(Cause::ALL.map(Cause::class)), BTreeSet::from(classes));
    }
}
