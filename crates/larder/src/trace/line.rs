//! A record as ftrace prints its own, so that both read side by side.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::events::{self, Event};

/// Characters of a key that are printed; `--json` has them all.
const KEY_CHARS: usize = 16;

/// What every record has, and what is printed before the colon.
const COMMON: [&str; 5] = ["event", "at_ns", "task", "tid", "pid"];

/// Prints a record: `task-tid seconds.microseconds: event: fields`.
///
/// The record is what crossed the control API, so that a newer daemon's unknown fields are shown too.
pub fn line(record: &Map<String, Value>) -> String {
    let text = |name: &str| record.get(name).and_then(Value::as_str).unwrap_or("?");
    let number = |name: &str| record.get(name).and_then(Value::as_u64).unwrap_or_default();
    let (event, at_us) = (text("event"), number("at_ns") / 1000);
    let task = format!("{}-{}", text("task"), number("tid"));
    let mut line = format!("{task:>22} {:>6}.{:06}: {event}:", at_us / 1_000_000, at_us % 1_000_000);
    let mut printed = Vec::new();
    for part in events::known(event).into_iter().flat_map(parts) {
        if let Some(value) = record.get(part.field) {
            let space = if printed.is_empty() { " " } else { "" };
            let before = if printed.is_empty() { part.before.trim_start() } else { part.before };
            let _infallible = write!(line, "{space}{before}{}", part.form.print(value));
            printed.push(part.field);
        }
    }
    for (name, value) in record {
        if !printed.contains(&&**name) && !COMMON.contains(&&**name) {
            let _infallible = write!(line, " {name}={}", rest(name, value));
        }
    }
    if let Some(pid) = record.get("pid") {
        let _infallible = write!(line, " pid={pid}");
    }
    // Nothing of an image's may reach the terminal as a control.
    line.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

fn rest(name: &str, value: &Value) -> String {
    match (name, value.as_str()) {
        ("cookie", Some(key)) if key.chars().count() > KEY_CHARS + 7 => {
            // The kind of digest is the same for all of them.
            let key = key.strip_prefix("sha256-").unwrap_or(key);
            let short: String = key.chars().take(KEY_CHARS).collect();
            format!("{short}…")
        }
        (_, Some(text)) if text.contains(' ') => format!("{text:?}"),
        (_, Some(text)) => text.to_owned(),
        (_, None) => value.to_string(),
    }
}

/// One `{field}` of a print form, with the text before it, which is left out together with it.
struct Part {
    before: &'static str,
    field: &'static str,
    form: Form,
}

#[derive(Clone, Copy)]
enum Form {
    Plain,
    /// Hexadecimal, with so many digits at least.
    Hex(usize),
}

impl Form {
    fn print(self, value: &Value) -> String {
        match (self, value.as_u64(), value.as_str()) {
            (Self::Hex(digits), Some(number), _) => format!("{number:0digits$x}"),
            (_, _, Some(text)) => text.to_owned(),
            _ => value.to_string(),
        }
    }
}

/// Takes a print form apart.
fn parts(event: &'static Event) -> impl Iterator<Item = Part> {
    let mut rest = event.print;
    std::iter::from_fn(move || {
        let (before, tail) = rest.split_once('{')?;
        let (inside, tail) = tail.split_once('}')?;
        rest = tail;
        let (field, form) = match inside.split_once(':') {
            Some((field, "02x")) => (field, Form::Hex(2)),
            Some((field, "08x")) => (field, Form::Hex(8)),
            Some((field, _)) => (field, Form::Hex(0)),
            None => (inside, Form::Plain),
        };
        Some(Part { before, field, form })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(record: &Value) -> String {
        line(record.as_object().expect("an object"))
    }

    #[test]
    fn a_decision_reads_as_the_kernel_prints_it() {
        let record = serde_json::json!({
            "event": "cachefiles_prep_read", "at_ns": 11_803_123_456_789u64, "task": "fanotify", "tid": 3122,
            "pid": 77, "object": 42, "source": "READ", "why": "have-data", "flags": 32, "start": 0x3000,
            "len": 4096, "cookie": format!("sha256-{}", "ab".repeat(32)), "volume": "default"
        });
        assert_eq!(
            printed(&record),
            "         fanotify-3122  11803.123456: cachefiles_prep_read: o=0000002a READ have-data f=20 s=3000 1000 \
             cookie=abababababababab… volume=default pid=77"
        );
    }

    #[test]
    fn what_is_missing_is_left_out_and_what_is_unknown_follows() {
        let record = serde_json::json!({
            "event": "cachefiles_prep_read", "at_ns": 1000, "task": "larder", "tid": 1, "source": "DOWN",
            "note": "two words", "flag": true
        });
        assert_eq!(
            printed(&record),
            "              larder-1      0.000001: cachefiles_prep_read: DOWN flag=true note=\"two words\""
        );
        let foreign =
            serde_json::json!({ "event": "of_tomorrow", "at_ns": 0, "task": "\u{1b}[2J", "tid": 1 });
        assert_eq!(printed(&foreign), "                ?[2J-1      0.000000: of_tomorrow:");
    }

    #[test]
    fn every_print_form_can_be_taken_apart() {
        for event in events::EVENTS {
            let fields = parts(event).map(|part| part.field).collect::<Vec<_>>();
            assert_eq!(fields.len(), event.print.matches('{').count(), "{}", event.name);
            assert!(fields.iter().all(|field| !COMMON.contains(field)), "{}", event.name);
        }
    }
}
