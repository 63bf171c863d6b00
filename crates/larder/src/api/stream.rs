//! Answers that go on: one JSON object a line.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;

use crate::trace::{Batch, Subscription};

/// The media type of one JSON object a line.
const NDJSON: &str = "application/x-ndjson";

/// Trace records as they come, until the caller hangs up or the daemon ends.
pub fn trace(subscription: Subscription) -> Response {
    let lines = stream::unfold(subscription, async |mut subscription| {
        let batch = subscription.next().await?;
        Some((Ok::<_, Infallible>(lines(&batch)), subscription))
    });
    ([(CONTENT_TYPE, NDJSON)], Body::from_stream(lines)).into_response()
}

fn lines(batch: &Batch) -> Bytes {
    let mut text = Vec::new();
    if batch.lost > 0 {
        push(&mut text, &serde_json::json!({ "event": "lost", "records": batch.lost }));
    }
    for record in &batch.records {
        push(&mut text, &**record);
    }
    text.into()
}

fn push(text: &mut Vec<u8>, value: &impl serde::Serialize) {
    let before = text.len();
    match serde_json::to_writer(&mut *text, value) {
        Ok(()) => text.push(b'\n'),
        // A number that JSON has no word for: the line is left out, never half written.
        Err(_) => text.truncate(before),
    }
}
