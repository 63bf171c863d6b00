//! The fill map: each blob as a field of cells, coloured by what came when.

use super::order::{Arrival, Cause, STEPS, arrivals};
use super::text::{float, short, time};
use crate::api::types::{BlobLayout, Records};
use crate::output::bytes::human;

const COLUMNS: usize = 160;
const ROWS_MAX: usize = 48;
/// Width and height of a cell with its gap.
const CELL: usize = 6;
/// A cell stands for at least so many bytes: the usual chunk.
const CELL_BYTES_MIN: u64 = 64 * 1024;

/// Returns the section.
pub(super) fn section(records: &Records) -> String {
    let mut blobs = String::new();
    for (position, layout) in records.blobs.iter().enumerate().filter(|(_, layout)| layout.size_bytes > 0) {
        blobs.push_str(&figure(layout, &arrivals(records, position)));
    }
    format!("<section>\n<h2>What came, and when</h2>\n{}{blobs}</section>\n", legend())
}

fn legend() -> String {
    let swatches = |cause: Cause| {
        let cells = (0..STEPS).map(|step| format!("<i class=\"{}{step}\"></i>", cause.class()));
        format!("<span class=\"key\">{}{}</span>", cells.collect::<String>(), cause.words())
    };
    format!(
        "<p class=\"legend\">{}<span class=\"key\"><i class=\"never\"></i>never fetched</span>\
         <span class=\"key note\">dark came first, light last</span></p>\n",
        Cause::ALL.map(swatches).concat()
    )
}

fn figure(layout: &BlobLayout, arrivals: &[Arrival]) -> String {
    let cells_max = u64::try_from(COLUMNS * ROWS_MAX).unwrap_or(u64::MAX);
    let cell_bytes = layout.size_bytes.div_ceil(cells_max).max(CELL_BYTES_MIN).next_multiple_of(4096);
    let cells = usize::try_from(layout.size_bytes.div_ceil(cell_bytes)).unwrap_or(usize::MAX);
    let rows = cells.div_ceil(COLUMNS);
    let (width, height) = (COLUMNS * CELL, rows * CELL);
    let fetched: u64 = covered(arrivals);
    format!(
        "<figure>\n<figcaption><code>{}</code> {} decoded, {:.1} % here; a cell is {}</figcaption>\n\
         <svg class=\"map\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"fill map\">\n{}{}</svg>\n</figure>\n",
        short(&layout.name),
        human(layout.size_bytes),
        float(fetched) * 100.0 / float(layout.size_bytes),
        human(cell_bytes),
        empty_cells(cells),
        filled_cells(arrivals, cell_bytes, cells),
    )
}

/// Bytes that at least one arrival covers.
fn covered(arrivals: &[Arrival]) -> u64 {
    let mut ranges: Vec<_> = arrivals.iter().map(|arrival| (arrival.start, arrival.end)).collect();
    ranges.sort_unstable();
    let mut reached = 0;
    let mut sum = 0;
    for (start, end) in ranges {
        sum += end.saturating_sub(start.max(reached));
        reached = reached.max(end);
    }
    sum
}

/// All cells, in grey: dashed lines are far smaller than rectangles.
fn empty_cells(cells: usize) -> String {
    let size = CELL - 1;
    let mut path = String::new();
    for row in 0..cells.div_ceil(COLUMNS) {
        let in_row = (cells - row * COLUMNS).min(COLUMNS);
        let y = row * CELL + size.div_ceil(2);
        path.push_str(&format!("M0 {y}h{}", in_row * CELL - 1));
    }
    format!("<path class=\"cells\" stroke-width=\"{size}\" stroke-dasharray=\"{size} 1\" d=\"{path}\"/>\n")
}

/// What a cell shows: the first arrival that touched it.
fn filled_cells(arrivals: &[Arrival], cell_bytes: u64, cells: usize) -> String {
    let mut first: Vec<Option<&Arrival>> = vec![None; cells];
    for arrival in arrivals {
        let begin = usize::try_from(arrival.start / cell_bytes).unwrap_or(cells).min(cells);
        let end = usize::try_from(arrival.end.div_ceil(cell_bytes)).unwrap_or(cells).min(cells);
        for cell in &mut first[begin..end] {
            cell.get_or_insert(arrival);
        }
    }
    let mut marks = String::new();
    let mut at = 0;
    while at < cells {
        let Some(arrival) = first[at] else {
            at += 1;
            continue;
        };
        let row_end = (at / COLUMNS + 1) * COLUMNS;
        let same = |cell: &&Option<&Arrival>| {
            cell.is_some_and(|other| other.start == arrival.start && other.cause == arrival.cause)
        };
        let run = first[at..row_end.min(cells)].iter().take_while(same).count().max(1);
        marks.push_str(&mark(arrival, at, run));
        at += run;
    }
    marks
}

fn mark(arrival: &Arrival, at: usize, run: usize) -> String {
    let (x, y) = (at % COLUMNS * CELL, at / COLUMNS * CELL);
    let (width, height) = (run * CELL - 1, CELL - 1);
    format!(
        "<rect class=\"{}{}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\"><title>{} at {}, {}</title></rect>\n",
        arrival.cause.class(),
        arrival.step,
        human(arrival.end - arrival.start),
        time(arrival.at_ms),
        arrival.cause.words(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(start: u64, end: u64, step: usize) -> Arrival {
        Arrival { start, end, cause: Cause::Demand, step, at_ms: 1.0 }
    }

    #[test]
    fn a_cell_belongs_to_the_first_arrival_that_touched_it() {
        let marks = filled_cells(&[arrival(0, 100, 0), arrival(50, 250, 5)], 100, 4);
        let classes: Vec<_> = marks.lines().filter_map(|line| line.split('"').nth(1)).collect();
        assert_eq!(classes, ["d0", "d5"]);
        assert!(marks.contains("x=\"6\" y=\"0\" width=\"11\""), "{marks}");
    }

    #[test]
    fn overlapping_arrivals_are_counted_once() {
        assert_eq!(covered(&[arrival(0, 100, 0), arrival(50, 150, 0), arrival(200, 300, 0)]), 250);
    }

    #[test]
    fn a_run_ends_with_its_row() {
        let bytes = u64::try_from(COLUMNS).expect("it is small") * 10 * 2;
        let marks = filled_cells(&[arrival(0, bytes, 0)], 10, COLUMNS * 2);
        assert_eq!(marks.lines().count(), 2);
    }
}
