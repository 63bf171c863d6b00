//! The parsers by themselves, for the targets in `fuzz/`: each takes any text and must return.

use reqwest::Url;

use crate::tree::parse_html_index;

/// Entries that a listing may have here.
const ENTRIES_MAX: usize = 1000;

/// Reads the HTML index of a directory and insists on what callers rely on.
///
/// # Panics
///
/// When a listed name is none, or is listed twice.
pub fn html_index(page: &str) {
    let base = Url::parse("http://host.example/a/b%20c/").expect("a URL");
    let Some(entries) = parse_html_index(page, &base, ENTRIES_MAX) else { return };
    assert!(entries.len() <= ENTRIES_MAX);
    assert!(entries.windows(2).all(|pair| pair[0].name < pair[1].name), "in order, each once");
    for entry in entries {
        let name = entry.name;
        assert!(!name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0']), "{name:?}");
    }
}
