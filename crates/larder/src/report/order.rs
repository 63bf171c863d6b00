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
    /// Nobody had asked yet: metadata at mount time, lists.
    Ahead,
}

impl Cause {
    pub(super) const ALL: [Self; 3] = [Self::Demand, Self::Readahead, Self::Ahead];

    pub(super) fn of(fill: &Fill) -> Self {
        match fill.cause.as_str() {
            "demand" => Self::Demand,
            "readahead" => Self::Readahead,
            _ => Self::Ahead,
        }
    }

    /// The first letter of the style's class names.
    pub(super) fn class(self) -> char {
        match self {
            Self::Demand => 'd',
            Self::Readahead => 'r',
            Self::Ahead => 'p',
        }
    }

    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Demand => "a reader waited for it",
            Self::Readahead => "read ahead",
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
