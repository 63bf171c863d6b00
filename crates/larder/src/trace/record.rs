//! [`Record`]: one event as it leaves the process.

use std::fmt::{self, Write as _};

use serde::ser::{Serialize, SerializeMap as _, Serializer};
use tracing::field::{Field, Visit};

use super::events::Event;

/// Longest text of a field in bytes; more is cut off. Keys have 255 at most.
const TEXT_BYTES_MAX: usize = 512;

/// Fields of one event at most: what `tracing` itself allows.
const FIELDS_MAX: usize = 32;

/// One event as it leaves the process.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Which trace point.
    pub event: &'static str,
    /// When, in nanoseconds of CLOCK_MONOTONIC.
    pub at_ns: u64,
    /// Name of the thread it happened on.
    pub task: Box<str>,
    /// Id of that thread.
    pub tid: u32,
    /// Whose read it is about, where somebody told.
    pub pid: Option<u32>,
    /// Its fields in the order in which the event has them.
    pub fields: Vec<(&'static str, Value)>,
}

/// What a field holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A number that is not negative.
    Unsigned(u64),
    /// A number.
    Signed(i64),
    /// A number with a fraction.
    Float(f64),
    /// Yes or no.
    Bool(bool),
    /// Everything else.
    Text(Box<str>),
}

impl Record {
    /// Starts the record of an `event` that happens now, on this thread.
    pub fn now(event: &'static Event) -> Self {
        let thread = std::thread::current();
        Self {
            event: event.name,
            at_ns: super::clock::now_ns(),
            task: thread.name().unwrap_or("larder").into(),
            tid: rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs(),
            pid: None,
            fields: Vec::with_capacity(8),
        }
    }

    /// The cookie it is about.
    pub fn cookie(&self) -> Option<&str> {
        self.fields.iter().find_map(|(name, value)| match value {
            Value::Text(text) if *name == "cookie" => Some(&**text),
            _ => None,
        })
    }

    fn push(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", _) => {}
            ("pid", Value::Unsigned(pid)) => self.pid = u32::try_from(pid).ok(),
            // The fill engine calls by the blob's name what the cache calls a cookie.
            ("blob", value) => self.fields.push(("cookie", value)),
            (name, value) if self.fields.len() < FIELDS_MAX => self.fields.push((name, value)),
            _ => {}
        }
    }
}

impl Visit for Record {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push(field, Value::Float(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        let value = u64::try_from(value).map_or(Value::Signed(value), Value::Unsigned);
        self.push(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, Value::Unsigned(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, Value::Bool(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            return;
        }
        let mut text = Short::<TEXT_BYTES_MAX>::default();
        // The buffer takes what fits and says that it is full; what fits is what is wanted.
        let _full = write!(text, "{value:?}");
        let value = match field.name() {
            "source" => source(&text.0).into(),
            "why" => kebab(&text.0).into(),
            _ => text.0.into(),
        };
        self.push(field, Value::Text(value));
    }
}

/// The four letters of `cachefiles_prep_read`: `netfs_sreq_sources` in include/trace/events/netfs.h (v6.12).
fn source(text: &str) -> &str {
    match text {
        "FillWithZeroes" => "ZERO",
        "DownloadFromServer" => "DOWN",
        "ReadFromCache" => "READ",
        "InvalidRead" => "INVL",
        other => other,
    }
}

/// `HaveData` as the kernel prints it: `have-data`.
fn kebab(text: &str) -> String {
    if !text.chars().all(|letter| letter.is_ascii_alphanumeric()) {
        return text.to_owned();
    }
    let mut kebab = String::with_capacity(text.len() + 2);
    for letter in text.chars() {
        if letter.is_ascii_uppercase() && !kebab.is_empty() {
            kebab.push('-');
        }
        kebab.push(letter.to_ascii_lowercase());
    }
    kebab
}

/// A text of at most so many bytes.
#[derive(Default)]
pub(super) struct Short<const BYTES_MAX: usize>(pub String);

impl<const BYTES_MAX: usize> fmt::Write for Short<BYTES_MAX> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = BYTES_MAX.saturating_sub(self.0.len());
        if text.len() <= room {
            self.0.push_str(text);
            return Ok(());
        }
        let fits = (0..=room).rev().find(|&at| text.is_char_boundary(at)).unwrap_or_default();
        self.0.push_str(&text[..fits]);
        Err(fmt::Error)
    }
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("event", self.event)?;
        map.serialize_entry("at_ns", &self.at_ns)?;
        map.serialize_entry("task", &self.task)?;
        map.serialize_entry("tid", &self.tid)?;
        if let Some(pid) = self.pid {
            map.serialize_entry("pid", &pid)?;
        }
        for (name, value) in &self.fields {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Unsigned(number) => to.serialize_u64(*number),
            Self::Signed(number) => to.serialize_i64(*number),
            Self::Float(number) => to.serialize_f64(*number),
            Self::Bool(is) => to.serialize_bool(*is),
            Self::Text(text) => to.serialize_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_and_reasons_are_spelled_as_the_kernel_does() {
        for (debug, printed) in [
            ("ReadFromCache", "READ"),
            ("DownloadFromServer", "DOWN"),
            ("FillWithZeroes", "ZERO"),
            ("InvalidRead", "INVL"),
            ("READ", "READ"),
        ] {
            assert_eq!(source(debug), printed);
        }
        for (debug, printed) in
            [("HaveData", "have-data"), ("AfterEof", "after-eof"), ("no-data", "no-data"), ("", "")]
        {
            assert_eq!(kebab(debug), printed);
        }
    }

    #[test]
    fn a_text_is_cut_at_a_character() {
        let mut short = Short::<4>::default();
        assert!(write!(short, "aé").and_then(|()| write!(short, "éé")).is_err());
        assert_eq!(short.0, "aé");
    }
}
