//! Trace points on their way out: from the events of the libraries to whoever listens.
//!
//! The libraries emit `tracing` events with the names and fields of the kernel's trace points; an event is known by
//! its message, which is what a log shows too. [`events`] is the table of known names, [`TraceLayer`] turns what happens into
//! [`Record`]s, the [`Hub`] hands them to subscribers over bounded channels, [`line()`](line::line) writes them as
//! ftrace would.
//!
//! While nobody listens every call site is disabled through tracing's interest cache and level hint: an event costs
//! one comparison. While somebody listens an event costs a record; a subscriber that reads too slowly loses records
//! and is told how many, and no reader of an image ever waits for it.

pub mod events;
pub mod line;

mod clock;
mod hub;
mod layer;
mod record;
mod subscriber;

pub use hub::{Hub, SUBSCRIBERS_MAX};
pub use layer::TraceLayer;
pub use subscriber::{Batch, ImageName, Select, Subscription};

#[cfg(test)]
mod sys;
#[cfg(test)]
mod tests;
