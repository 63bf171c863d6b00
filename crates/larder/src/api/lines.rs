//! [`Lines`]: an answer of the daemon that goes on, a line at a time.

use anyhow::Context as _;
use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::client::{Connection, lost};
use crate::errors::{Kind, Report, told};

/// The last line of an answer that failed after it had begun.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Failed {
    failed: Report,
}

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

    /// The next line as what it says; `None` at the end.
    ///
    /// # Errors
    ///
    /// When it cannot be understood, or says that the work failed.
    pub async fn value<T: DeserializeOwned>(&mut self) -> anyhow::Result<Option<T>> {
        let Some(line) = self.next().await? else { return Ok(None) };
        match serde_json::from_slice(&line) {
            Ok(value) => Ok(Some(value)),
            Err(error) => match serde_json::from_slice(&line) {
                Ok(Failed { failed }) => Err(failed.into_error()),
                Err(_) => Err(error).context("the daemon's answer cannot be understood"),
            },
        }
    }

    /// The next line, without its end; `None` at the end of the answer.
    ///
    /// # Errors
    ///
    /// When the daemon has gone away, or sends a line longer than any.
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
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            let frame = frame.context(lost())?;
            if let Ok(data) = frame.into_data() {
                self.waiting.extend_from_slice(&data);
            }
        }
    }
}
