//! [`TraceLayer`]: the `tracing` layer that makes records of known events while somebody listens.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id};
use tracing::subscriber::Interest;
use tracing::{Event as TracingEvent, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, Filter};
use tracing_subscriber::registry::LookupSpan;

use super::events::{self, Event};
use super::hub::Hub;
use super::record::Record;

/// Whose events are trace points: the libraries'.
const TARGETS: &str = "larder_";

/// Longest name of a trace point in bytes.
const NAME_BYTES_MAX: usize = 40;

/// Makes records of known events while somebody listens.
#[derive(Debug)]
pub struct TraceLayer {
    hub: Arc<Hub>,
}

/// The filter of a [`TraceLayer`]: nothing at all while nobody listens.
#[derive(Debug)]
pub struct WhileOn {
    hub: Arc<Hub>,
}

impl TraceLayer {
    /// A layer that hands its records to `hub`, with the filter that keeps it from costing anything meanwhile.
    pub fn over<S>(hub: &Arc<Hub>) -> impl Layer<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        Self { hub: Arc::clone(hub) }.with_filter(WhileOn { hub: Arc::clone(hub) })
    }
}

/// Events are known by their message; spans tell whose read it is.
fn may_matter(metadata: &Metadata<'_>) -> bool {
    let telling = if metadata.is_event() { "message" } else { "pid" };
    metadata.target().starts_with(TARGETS) && metadata.fields().field(telling).is_some()
}

impl<S> Filter<S> for WhileOn {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        self.hub.is_on() && may_matter(metadata)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.hub.is_on() && may_matter(metadata) { Interest::always() } else { Interest::never() }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(if self.hub.is_on() { LevelFilter::TRACE } else { LevelFilter::OFF })
    }
}

/// Whose read a span is about.
struct Pid(u32);

impl<S> Layer<S> for TraceLayer
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut found = FindPid(None);
        attributes.record(&mut found);
        if let (FindPid(Some(pid)), Some(span)) = (found, context.span(id)) {
            span.extensions_mut().replace(Pid(pid));
        }
    }

    fn on_event(&self, event: &TracingEvent<'_>, context: Context<'_, S>) {
        let Some(known) = name_of(event) else { return };
        if !self.hub.wants_event(known.name) {
            return;
        }
        let mut record = Record::now(known);
        event.record(&mut record);
        let mut spans = context.event_scope(event).into_iter().flatten();
        record.pid =
            record.pid.or_else(|| spans.find_map(|span| span.extensions().get().map(|Pid(pid)| *pid)));
        self.hub.offer(record);
    }
}

fn name_of(event: &TracingEvent<'_>) -> Option<&'static Event> {
    let mut message = Message { text: [0; NAME_BYTES_MAX], len: 0 };
    event.record(&mut message);
    events::known(std::str::from_utf8(message.text.get(..message.len)?).ok()?)
}

/// The message of an event, as far as it can be a name.
struct Message {
    text: [u8; NAME_BYTES_MAX],
    len: usize,
}

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" && write!(self, "{value:?}").is_err() {
            self.len = 0;
        }
    }
}

impl fmt::Write for Message {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.len + text.len();
        let Some(room) = self.text.get_mut(self.len..end) else { return Err(fmt::Error) };
        room.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

struct FindPid(Option<u32>);

impl Visit for FindPid {
    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}

    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "pid" {
            self.0 = u32::try_from(value).ok();
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.record_u64(field, u64::try_from(value).unwrap_or(u64::MAX));
    }
}
