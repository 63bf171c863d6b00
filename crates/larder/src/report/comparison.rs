//! The head of the page: the two ways side by side.

use super::text::{escape, float};
use crate::demo::Figures;
use crate::output::bytes::human;

/// Returns the section.
pub(super) fn section(figures: &Figures) -> String {
    let headline = if figures.times_sooner() >= 1.05 {
        format!("Ready {:.1} times sooner", figures.times_sooner())
    } else {
        format!("Ready in {:.2} s", figures.lazy_seconds)
    };
    let verified = if figures.verified {
        "<span class=\"good\">✓ every byte verified</span>"
    } else {
        "<span class=\"bad\">✗ not verified</span>"
    };
    let bars = [
        bar("On demand", "lazy", figures.lazy_seconds, figures.full_seconds),
        bar("Everything first", "full", figures.full_seconds, figures.lazy_seconds),
    ];
    format!(
        "<header>\n<p class=\"eyebrow\">larder demo</p>\n<h1>{headline}</h1>\n\
         <p class=\"lead\"><b>{}</b> ran out of an image of {} after {} of it had come, through <b>{}</b>, over a link \
         of {} ms and {}. {verified}</p>\n</header>\n\
         <section class=\"card\">\n<h2>Seconds to the first output</h2>\n<div class=\"bars\">\n{}</div>\n{}{}</section>\n",
        escape(&figures.program),
        human(figures.image_bytes),
        human(figures.fetched_bytes),
        escape(&figures.frontend),
        figures.latency_ms,
        escape(&figures.bandwidth),
        bars.concat(),
        table(figures),
        remarks(figures),
    )
}

fn bar(name: &str, class: &str, seconds: f64, other: f64) -> String {
    let longest = seconds.max(other).max(1e-9);
    // A bar of no width would look like a mistake.
    let width = (seconds / longest * 100.0).clamp(0.4, 100.0);
    format!(
        "<div class=\"bar-name\">{name}</div><div class=\"bar-track\"><div class=\"bar {class}\" \
         style=\"width:{width:.2}%\"></div></div><div class=\"bar-value\">{seconds:.2}</div>\n"
    )
}

fn table(figures: &Figures) -> String {
    let mut rows = String::new();
    for [what, unit, lazy, full] in figures.rows() {
        rows.push_str(&format!(
            "<tr><th scope=\"row\">{what}</th><td class=\"unit\">{unit}</td><td>{lazy}</td><td>{full}</td></tr>\n"
        ));
    }
    format!(
        "<table>\n<thead><tr><td></td><td></td><th scope=\"col\">on demand</th>\
         <th scope=\"col\">everything first</th></tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n"
    )
}

fn remarks(figures: &Figures) -> String {
    let mut remarks = figures.remarks();
    remarks.push([
        "everything first".to_owned(),
        format!(
            "{:.2} s to fetch, {:.2} s to unpack, then the program",
            figures.full_fetch_seconds,
            (figures.full_unpack_seconds - figures.full_fetch_seconds).max(0.0)
        ),
    ]);
    if figures.worker_resident_bytes > 0 {
        remarks.push([
            "memory".to_owned(),
            format!(
                "{:.1} MiB daemon, {:.1} MiB keeper",
                float(figures.worker_resident_bytes) / 1_048_576.0,
                float(figures.keeper_resident_bytes) / 1_048_576.0
            ),
        ]);
    }
    let items =
        remarks.iter().map(|[name, text]| format!("<dt>{}</dt><dd>{}</dd>\n", escape(name), escape(text)));
    format!("<dl>\n{}</dl>\n", items.collect::<String>())
}
