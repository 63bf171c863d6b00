//! The timeline: who waited when, for which place in the image.

use std::collections::BTreeSet;

use super::order::{Cause, origin_ms};
use super::places::Places;
use super::text::{float, tick_step, time};
use crate::api::types::{Fault, Records};
use crate::output::bytes::human;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 70.0;
const BOTTOM: f64 = 34.0;
const TOP: f64 = 8.0;
/// Labels closer than this would run into each other.
const LABEL_HEIGHT: f64 = 13.0;
/// Marks drawn at most, of faults and of fills each; more would not be seen apart.
const MARKS_MAX: usize = 4000;

/// From milliseconds and bytes to the drawing.
struct Scale {
    span_ms: f64,
    places: Places,
    origin_ms: f64,
    /// Where each blob begins when all stand one upon the other.
    bases: Vec<u64>,
}

/// Returns the section.
pub(super) fn section(records: &Records) -> String {
    let Some(scale) = Scale::of(records) else {
        return "<section>\n<h2>Who waited</h2>\n<p>No read met a hole.</p>\n</section>\n".to_owned();
    };
    format!(
        "<section>\n<h2>Who waited</h2>\n{}<figure>\n<figcaption>Each line is a read that met a hole, from its arrival to \
         its answer, at its place in the image; boxes behind are fetches. Parts of the image that nobody touched are left out.</figcaption>\n\
         <svg class=\"timeline\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"timeline of faults\">\n{}{}{}</svg>\n\
         </figure>\n</section>\n",
        tiles(records),
        axes(&scale),
        fills(records, &scale),
        faults(records, &scale),
    )
}

impl Scale {
    fn of(records: &Records) -> Option<Self> {
        let mut bases = Vec::new();
        let mut sum: u64 = 0;
        for blob in &records.blobs {
            bases.push(sum);
            sum = sum.saturating_add(blob.size_bytes);
        }
        let origin_ms = origin_ms(records);
        let ends =
            records.fills.iter().map(|fill| fill.at_ms).chain(records.faults.iter().map(|fault| fault.at_ms));
        let last = ends.filter(|at| at.is_finite()).fold(f64::NEG_INFINITY, f64::max);
        let span_ms = last - origin_ms;
        let touched = touched(records, &bases);
        (!touched.is_empty() && span_ms.is_finite() && span_ms > 0.0).then(|| Self {
            span_ms,
            places: Places::new(touched, TOP, HEIGHT - TOP - BOTTOM),
            origin_ms,
            bases,
        })
    }

    fn x(&self, at_ms: f64) -> f64 {
        LEFT + ((at_ms - self.origin_ms) / self.span_ms).clamp(0.0, 1.0) * (WIDTH - LEFT - 8.0)
    }

    fn y(&self, blob: usize, byte: u64) -> Option<f64> {
        let at = self.bases.get(blob)?.saturating_add(byte);
        self.places.y(at)
    }
}

/// What was fetched of blobs that somebody waited for; the metadata comes before anybody can.
fn touched(records: &Records, bases: &[u64]) -> Vec<(u64, u64)> {
    let awaited: BTreeSet<usize> = sound(records).map(|fault| fault.blob).collect();
    let fills = records.fills.iter().map(|fill| (fill.blob, fill.start, fill.end));
    let all = fills.chain(sound(records).map(|fault| (fault.blob, fault.start, fault.end)));
    all.filter_map(|(blob, start, end)| {
        let (base, layout) = (bases.get(blob)?, records.blobs.get(blob)?);
        let end = end.min(layout.size_bytes);
        (awaited.contains(&blob) && start < end)
            .then(|| (base.saturating_add(start), base.saturating_add(end)))
    })
    .collect()
}

fn axes(scale: &Scale) -> String {
    let mut marks = String::new();
    let floor = HEIGHT - BOTTOM;
    let step = tick_step(scale.span_ms, 8.0);
    let mut at = 0.0;
    while at <= scale.span_ms {
        let x = scale.x(at + scale.origin_ms);
        marks.push_str(&format!(
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{floor}\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n",
            floor + 18.0,
            if at > 0.0 { time(at) } else { "0".to_owned() }
        ));
        at += step;
    }
    let mut last_label = f64::NEG_INFINITY;
    for (y, byte) in scale.places.parts() {
        marks.push_str(&format!(
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\n"
        ));
        if y - last_label >= LABEL_HEIGHT {
            last_label = y;
            marks.push_str(&format!(
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{:.0} MiB</text>\n",
                LEFT - 8.0,
                y + 11.0,
                float(byte) / 1_048_576.0
            ));
        }
    }
    marks
}

fn fills(records: &Records, scale: &Scale) -> String {
    let mut marks = String::new();
    for fill in
        records.fills.iter().filter(|fill| fill.at_ms.is_finite() && fill.took_ms.is_finite()).take(MARKS_MAX)
    {
        let (Some(top), Some(bottom)) = (scale.y(fill.blob, fill.start), scale.y(fill.blob, fill.end)) else {
            continue;
        };
        let (left, right) = (scale.x(fill.at_ms - fill.took_ms), scale.x(fill.at_ms));
        let cause = Cause::of(fill);
        marks.push_str(&format!(
            "<rect class=\"box {}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\">\
             <title>fetched {} in {}: {}</title></rect>\n",
            cause.class(),
            (right - left).max(1.0),
            (bottom - top).max(2.0),
            human(fill.stored_bytes),
            time(fill.took_ms),
            cause.words(),
        ));
    }
    marks
}

fn faults(records: &Records, scale: &Scale) -> String {
    let mut marks = String::new();
    for fault in sound(records).take(MARKS_MAX) {
        let Some(y) = scale.y(fault.blob, fault.start) else { continue };
        let (left, right) = (scale.x(fault.at_ms - fault.waited_ms), scale.x(fault.at_ms));
        marks.push_str(&format!(
            "<line class=\"fault{}\" x1=\"{left:.1}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\">\
             <title>waited {} for {}{}</title></line>\n",
            if fault.ok { "" } else { " failed" },
            right.max(left + 1.5),
            time(fault.waited_ms),
            human(fault.end.saturating_sub(fault.start)),
            if fault.ok { "" } else { ", in vain" },
        ));
    }
    marks
}

fn sound(records: &Records) -> impl Iterator<Item = &Fault> {
    records.faults.iter().filter(|fault| fault.at_ms.is_finite() && fault.waited_ms.is_finite())
}

fn tiles(records: &Records) -> String {
    let mut waits: Vec<f64> = sound(records).map(|fault| fault.waited_ms).collect();
    waits.sort_by(f64::total_cmp);
    let median = waits.get(waits.len() / 2).copied().unwrap_or(0.0);
    let longest = waits.last().copied().unwrap_or(0.0);
    let bytes = |cause: Cause| {
        let fills = records.fills.iter().filter(|fill| Cause::of(fill) == cause);
        human(fills.fold(0, |sum, fill| fill.stored_bytes.saturating_add(sum)))
    };
    let tile = |value: String, name: &str| format!("<div class=\"tile\"><b>{value}</b>{name}</div>");
    format!(
        "<div class=\"tiles\">{}{}{}{}{}</div>\n",
        tile(waits.len().to_string(), "reads waited"),
        tile(time(median), "median wait"),
        tile(time(longest), "longest wait"),
        tile(bytes(Cause::Demand), "fetched on demand"),
        tile(bytes(Cause::Readahead), "read ahead"),
    )
}
