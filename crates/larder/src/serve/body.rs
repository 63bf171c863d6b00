//! [`Body`]: a response body that crosses the link piece by piece.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use http_body_util::StreamBody;
use hyper::body::Frame;

use super::link::Flow;
use super::traffic::Counters;

/// What is read from the file at once; each response in progress holds one such buffer.
const READ_BYTES: u64 = 128 * 1024;

/// The body of every response.
pub(super) type Body = StreamBody<Pin<Box<dyn Stream<Item = io::Result<Frame<Bytes>>> + Send>>>;

/// Where the bytes come from.
pub(super) enum Content {
    /// Nothing: an answer to HEAD.
    Nothing,
    /// These bytes.
    Bytes(Bytes),
    /// A part of a file.
    File {
        /// The blob.
        file: Arc<File>,
        /// First byte.
        start: u64,
        /// First byte after the part.
        end: u64,
    },
}

struct Sending {
    content: Content,
    /// Read already, not yet sent.
    ahead: Bytes,
    flow: Flow,
    piece_bytes: usize,
    counters: Arc<Counters>,
}

/// Sends `content` over `flow` in pieces of at most `piece_bytes`, counting what is sent.
pub(super) fn send(content: Content, flow: Flow, piece_bytes: usize, counters: Arc<Counters>) -> Body {
    let (content, ahead) = match content {
        Content::Bytes(bytes) => (Content::Nothing, bytes),
        other => (other, Bytes::new()),
    };
    let sending = Sending { content, ahead, flow, piece_bytes, counters };
    StreamBody::new(Box::pin(stream::try_unfold(sending, next_piece)))
}

async fn next_piece(mut sending: Sending) -> io::Result<Option<(Frame<Bytes>, Sending)>> {
    if sending.ahead.is_empty() {
        sending.ahead = read_ahead(&mut sending.content).await?;
    }
    if sending.ahead.is_empty() {
        return Ok(None);
    }
    let piece = sending.ahead.split_to(sending.piece_bytes.min(sending.ahead.len()));
    sending.flow.send(u64::try_from(piece.len()).unwrap_or(u64::MAX)).await;
    sending.counters.body(piece.len());
    Ok(Some((Frame::data(piece), sending)))
}

/// Reads the next bytes of a file; no bytes mean the end.
async fn read_ahead(content: &mut Content) -> io::Result<Bytes> {
    let Content::File { file, start, end } = content else { return Ok(Bytes::new()) };
    let at = *start;
    let len = (*end - at).min(READ_BYTES);
    if len == 0 {
        return Ok(Bytes::new());
    }
    *start = at + len;
    let file = Arc::clone(file);
    let read = move || {
        let mut buffer = vec![0; usize::try_from(len).unwrap_or(0)];
        file.read_exact_at(&mut buffer, at)?;
        Ok(Bytes::from(buffer))
    };
    tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
}
