//! [`Lines`]: an answer of the daemon that goes on, a line at a time.

use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::client::Connection;
use crate::errors::{Kind, told};

/// Longest line that is accepted.
const LINE_BYTES_MAX: usize = 1024 * 1024;

/// An answer of the daemon that goes on, a line at a time.
pub struct Lines {
    body: Incoming,
    waiting: BytesMut,
    _connection: Connection,
}

impl Lines {
    pub(super) fn new(body: Incoming, connection: Connection) -> Self {
        Self { body, waiting: BytesMut::new(), _connection: connection }
    }

    /// The next line, without its end; `None` at the end of the answer, or when the daemon has gone away.
    ///
    /// # Errors
    ///
    /// When a line is longer than any that a daemon sends.
    pub async fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.waiting[searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.waiting.split_to(searched + at).freeze();
                self.waiting.advance(1);
                return Ok(Some(line));
            }
            searched = self.waiting.len();
            if searched > LINE_BYTES_MAX {
                return Err(told(Kind::Failed, "a line of the daemon's answer does not end", ""));
            }
            let Some(Ok(frame)) = self.body.frame().await else { return Ok(None) };
            if let Ok(data) = frame.into_data() {
                self.waiting.extend_from_slice(&data);
            }
        }
    }
}
