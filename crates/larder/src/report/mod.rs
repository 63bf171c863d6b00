//! The report of `larder demo`: one HTML page that needs nothing else.
//!
//! The page has no script and loads nothing; what a pointer shows are the titles of SVG. Colours follow the reader's
//! light or dark scheme.

mod comparison;
mod fill_map;
mod order;
mod places;
mod text;
mod timeline;

use crate::api::types::Records;
use crate::demo::Figures;
use text::escape;

const STYLE: &str = include_str!("style.css");

/// The two sentences on how it works.
const HOW: &str = "Larder mounts an image whose bytes are still on the far side of a network: a read that meets a hole \
    waits while just those bytes are fetched, checked against a digest that the image's manifest vouches for, and \
    written to a local cache. What has been fetched once is local from then on, and a program runs as soon as the few \
    bytes it needs are here.";

/// Returns the page.
pub fn page(figures: &Figures, records: &Records) -> String {
    let title = format!("Larder: {} on demand", escape(&figures.program));
    let sections = [
        comparison::section(figures),
        format!("<section><h2>How it works</h2><p class=\"prose\">{HOW}</p></section>\n"),
        fill_map::section(records),
        timeline::section(records),
    ];
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n<style>\n{STYLE}</style>\n\
         </head>\n<body>\n<main>\n{}</main>\n<footer>larder {}</footer>\n</body>\n</html>\n",
        sections.concat(),
        env!("CARGO_PKG_VERSION")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::{BlobLayout, Fault, Fill};

    pub(super) fn made_up() -> Records {
        const CHUNK: u64 = 65_536;
        let blob = |name: &str, chunks: u64| BlobLayout {
            name: name.to_owned(),
            size_bytes: chunks * CHUNK,
            stored_bytes: chunks * CHUNK / 3,
            chunk_ends: (1..=chunks).map(|n| n * CHUNK).collect(),
            chunk_stored_bytes: (0..chunks).map(|_| CHUNK / 3).collect(),
        };
        let mut records = Records {
            blobs: vec![blob("sha256-meta", 60), blob("sha256-<data>", 20_000)],
            ..Records::default()
        };
        let mut at_ms = 120.0;
        records.fills.push(fill(at_ms, 0, 0, 60, "prefetch"));
        for n in 0..220_u64 {
            let start = (n * n * 7919) % 19_000;
            at_ms += 4.0;
            let cause = if n % 3 == 0 { "readahead" } else { "demand" };
            records.fills.push(fill(at_ms, 1, start, start + 1 + n % 40, cause));
            records.faults.push(Fault {
                at_ms,
                blob: 1,
                start: start * CHUNK,
                end: (start + 1) * CHUNK,
                waited_ms: 22.0 + (n % 17) as f64,
                pid: Some(42),
                ok: true,
            });
        }
        records
    }

    fn fill(at_ms: f64, blob: usize, start: u64, end: u64, cause: &str) -> Fill {
        let (start, end) = (start * 65_536, end * 65_536);
        Fill {
            at_ms,
            blob,
            start,
            end,
            stored_bytes: (end - start) / 3,
            cause: cause.to_owned(),
            took_ms: 25.0,
            ok: true,
        }
    }

    #[test]
    fn the_page_needs_nothing_else_and_escapes_names() {
        let figures = Figures { program: "<script>".to_owned(), ..Figures::default() };
        let page = page(&figures, &made_up());
        for forbidden in ["<script", "http:", "https:", "src=", "@import", "url("] {
            assert!(!page.contains(forbidden), "{forbidden}");
        }
        assert!(page.contains("&lt;script&gt;") && page.contains("sha256-&lt;data&gt;"));
        assert!(page.len() < 1_000_000, "{} bytes", page.len());
    }

    #[test]
    fn every_element_that_is_opened_is_closed() {
        let page = page(&Figures::default(), &made_up());
        for element in ["svg", "section", "table", "g", "figure", "div", "main", "title", "td"] {
            let opened =
                page.matches(&format!("<{element}>")).count() + page.matches(&format!("<{element} ")).count();
            assert_eq!(opened, page.matches(&format!("</{element}>")).count(), "{element}");
        }
    }

    #[test]
    fn records_that_make_no_sense_do_no_harm() {
        let mut records = made_up();
        records.fills.push(fill(1.0, 99, 0, 1, "demand"));
        records.fills.push(fill(f64::NAN, 1, 0, 1, "demand"));
        records.fills.push(Fill { start: u64::MAX - 1, end: u64::MAX, ..fill(2.0, 1, 0, 1, "demand") });
        records.faults.push(Fault {
            at_ms: 1.0,
            blob: 77,
            start: 9,
            end: 3,
            waited_ms: f64::INFINITY,
            pid: None,
            ok: false,
        });
        records.blobs.push(BlobLayout::default());
        let text = page(&Figures::default(), &records);
        assert!(!text.contains("NaN") && !text.contains("inf\""));
        assert!(page(&Figures::default(), &Records::default()).contains("</html>"));
    }
}
