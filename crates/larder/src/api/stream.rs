//! Answers that go on: one JSON object a line.

use std::convert::Infallible;
use std::ops::ControlFlow;

use anyhow::Context as _;
use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use tokio::sync::{Semaphore, mpsc};

use crate::errors::Report;
use crate::trace::{Batch, Subscription};

/// Bytes of lines that are sent at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// Chunks that wait for a caller at most.
const CHUNKS_WAITING_MAX: usize = 8;

/// Answers of lines at once, each with a thread; others wait for their turn.
static ANSWERS: Semaphore = Semaphore::const_new(32);

/// The media type of one JSON object a line.
const NDJSON: &str = "application/x-ndjson";

/// Trace records as they come, until the caller hangs up or the daemon ends.
pub fn trace(subscription: Subscription) -> Response {
    let lines = stream::unfold(subscription, async |mut subscription| {
        let batch = subscription.next().await?;
        Some((Ok::<_, Infallible>(records(&batch)), subscription))
    });
    ([(CONTENT_TYPE, NDJSON)], Body::from_stream(lines)).into_response()
}

/// Lines that `work` makes on a thread of its own; an error becomes a last line of its own, since the answer has begun.
///
/// A caller that does not read holds `work` up: no more than [`CHUNKS_WAITING_MAX`] chunks wait for it. Not on the threads of
/// the runtime that may block: fills need those.
///
/// # Errors
///
/// When the kernel refuses a thread.
pub async fn lines(
    work: impl FnOnce(&mut Sink) -> anyhow::Result<()> + Send + 'static,
) -> anyhow::Result<Response> {
    let turn = ANSWERS.acquire().await?;
    let (chunks, waiting) = mpsc::channel(CHUNKS_WAITING_MAX);
    let thread = std::thread::Builder::new().name("larder-lines".to_owned());
    let spawned = thread.spawn(move || {
        let _turn = turn;
        let mut sink = Sink { chunks, text: Vec::with_capacity(CHUNK_BYTES) };
        if let Err(error) = work(&mut sink) {
            let last = serde_json::json!({ "failed": Report::of(&error) });
            // Who has hung up needs no reason.
            let _hung_up = sink.push(&last);
        }
        let _hung_up = sink.send();
    });
    spawned.context("no thread for the answer")?;
    let lines = stream::unfold(waiting, async |mut waiting| {
        let chunk = waiting.recv().await?;
        Some((Ok::<_, Infallible>(chunk), waiting))
    });
    Ok(([(CONTENT_TYPE, NDJSON)], Body::from_stream(lines)).into_response())
}

/// Takes lines for a caller.
pub struct Sink {
    chunks: mpsc::Sender<Bytes>,
    text: Vec<u8>,
}

impl Sink {
    /// Adds a line, to be sent when there are enough; breaks when the caller has hung up.
    pub fn push(&mut self, value: &impl serde::Serialize) -> ControlFlow<()> {
        push(&mut self.text, value);
        if self.text.len() < CHUNK_BYTES { ControlFlow::Continue(()) } else { self.send() }
    }

    /// Adds a line and sends it.
    pub fn push_now(&mut self, value: &impl serde::Serialize) -> ControlFlow<()> {
        push(&mut self.text, value);
        self.send()
    }

    fn send(&mut self) -> ControlFlow<()> {
        let text = std::mem::replace(&mut self.text, Vec::with_capacity(CHUNK_BYTES));
        match self.chunks.blocking_send(text.into()) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }
}

fn records(batch: &Batch) -> Bytes {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::runtime::Builder;
    use tokio::task::spawn_blocking;
    use tokio::time::timeout;

    use super::*;

    #[test]
    fn p2_callers_that_do_not_read_keep_no_thread_from_the_fills() {
        let runtime = Builder::new_multi_thread().max_blocking_threads(1).enable_all().build();
        let unread = runtime.expect("threads").block_on(async {
            let endless = |sink: &mut Sink| {
                while sink.push(&"a line").is_continue() {}
                Ok(())
            };
            let unread = [lines(endless).await.expect("a thread"), lines(endless).await.expect("a thread")];
            let fill = timeout(Duration::from_secs(10), spawn_blocking(|| ())).await;
            fill.map(|_| unread)
        });
        assert!(unread.is_ok(), "a fill waits for callers that do not read");
    }
}
