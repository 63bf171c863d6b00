//! The body of an answer, sent piece by piece by a task of its own.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::sync::mpsc;

use crate::{content::Stored, registry::Shared};

const PIECE_BYTES: u64 = 64 * 1024;
/// Long enough for the pieces before a cut to leave the process.
const PAUSE_BEFORE_CUT: Duration = Duration::from_millis(20);

/// What to send, and what to do wrong on the way.
#[derive(Debug)]
pub(crate) struct Plan {
    pub digest: String,
    pub stored: Stored,
    pub start: u64,
    pub end: u64,
    /// Zeros to send after the end.
    pub extra: u64,
    pub flip: Option<u64>,
    pub piece: u64,
    pub pause: Duration,
    pub finally: Finally,
}

/// How a body ends.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Finally {
    End,
    Cut,
    Silence,
}

impl Plan {
    pub(crate) fn new(digest: String, stored: Stored, start: u64, end: u64) -> Self {
        let (piece, pause) = (PIECE_BYTES, Duration::ZERO);
        Self { digest, stored, start, end, extra: 0, flip: None, piece, pause, finally: Finally::End }
    }

    /// Shortens the plan to `bytes` bytes, and then does `finally`.
    pub(crate) fn stop_after(&mut self, bytes: u64, finally: Finally) {
        self.end = self.end.min(self.start.saturating_add(bytes));
        self.finally = finally;
    }

    /// Begins to send; the task ends with the body that is returned.
    pub(crate) fn send(self, shared: Arc<Shared>) -> Sending {
        let (to, pieces) = mpsc::channel(1);
        tokio::spawn(async move {
            let outcome = self.send_to(&shared, &to).await;
            let Err(error) = outcome.and_then(|()| match self.finally {
                Finally::End => Ok(()),
                _ => Err(io::ErrorKind::ConnectionAborted.into()),
            }) else {
                return;
            };
            tokio::time::sleep(PAUSE_BEFORE_CUT).await;
            if self.finally == Finally::Silence {
                to.closed().await;
            }
            let _ = to.send(Err(error)).await;
        });
        Sending(pieces)
    }

    async fn send_to(&self, shared: &Shared, to: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
        let answer = shared.ledger().open(&self.digest, self.start);
        let mut at = self.start;
        let last = self.end + self.extra;
        while at < last {
            let next = last.min(at + self.piece);
            tokio::time::sleep(self.pause).await;
            let mut bytes = self.stored.read(at.min(self.end), next.min(self.end))?;
            if let Some(flip) = self.flip.filter(|flip| (at..next).contains(flip)) {
                bytes[usize::try_from(flip - at).map_err(io::Error::other)?] ^= 1;
            }
            bytes.resize(usize::try_from(next - at).map_err(io::Error::other)?, 0);
            shared.take_link(bytes.len()).await;
            // Noted before it is sent: who has the last byte finds it in the ledger.
            shared.ledger().extend(&self.digest, answer, next);
            if to.send(Ok(bytes.into())).await.is_err() {
                break;
            }
            at = next;
        }
        Ok(())
    }
}

/// The receiving end of a [`Plan`], or a small body.
#[derive(Debug)]
pub(crate) struct Sending(mpsc::Receiver<io::Result<Bytes>>);

impl Sending {
    /// A body that is at hand.
    pub(crate) fn of(bytes: impl Into<Bytes>) -> Self {
        let (to, pieces) = mpsc::channel(1);
        // There is room for one, and the receiver is here.
        let _ = to.try_send(Ok(bytes.into()));
        Self(pieces)
    }
}

impl Body for Sending {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}
