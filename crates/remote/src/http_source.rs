//! [`HttpSource`]: one blob behind an address.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue,
    header::{CONTENT_RANGE, RANGE},
};
use reqwest::{Response, Url};

use crate::{
    BlobRange, Error, HttpClient, Meter, RangeSource,
    ask::{Ask, place},
    body::read_exact,
    content_range::ContentRange,
    retry::with_retries,
    retry_after::retry_after,
    token::{Tokens, get},
};

/// One blob behind an address, read by range.
///
/// Where the address redirects to another host, as registries do to signed addresses, that place is remembered and
/// asked directly until it refuses.
#[derive(Debug)]
pub struct HttpSource {
    client: HttpClient,
    url: Url,
    place: String,
    len: u64,
    tokens: Option<Arc<Tokens>>,
    moved_to: Mutex<Option<Url>>,
    meter: Arc<Meter>,
}

impl HttpSource {
    pub(crate) fn new(client: HttpClient, url: Url, len: u64, tokens: Option<Arc<Tokens>>) -> Self {
        let (place, meter) = (place(&url), Arc::default());
        Self { client, url, place, len, tokens, moved_to: Mutex::new(None), meter }
    }

    /// Returns the counters of this source, to be read wherever they are shown.
    pub fn shared_meter(&self) -> Arc<Meter> {
        Arc::clone(&self.meter)
    }

    /// One attempt: at the remembered place first, then at the address itself.
    async fn attempt(&self, range: BlobRange, ask: &Ask) -> Result<Bytes, Error> {
        if let Some(moved_to) = self.moved_to() {
            match self.read_at(&moved_to, None, range, &ask.redirected(&moved_to)).await {
                Err(error) if is_refusal(&error) => self.set_moved_to(None),
                Err(error @ (Error::Connection { .. } | Error::Timeout { .. })) => {
                    self.set_moved_to(None);
                    return Err(error);
                }
                other => return other.map(|(bytes, _)| bytes),
            }
        }
        let (bytes, from) = self.read_at(&self.url, self.tokens.as_deref(), range, ask).await?;
        if from.origin() != self.url.origin() {
            self.set_moved_to(Some(from));
        }
        Ok(bytes)
    }

    /// Reads `range` at `url` and returns it with the address that it came from in the end.
    async fn read_at(
        &self,
        url: &Url,
        tokens: Option<&Tokens>,
        range: BlobRange,
        ask: &Ask,
    ) -> Result<(Bytes, Url), Error> {
        let (whole, mut headers) = (range.len() == self.len, HeaderMap::new());
        if !whole {
            let text = format!("bytes={}-{}", range.start(), range.end() - 1);
            headers
                .insert(RANGE, HeaderValue::try_from(text).map_err(|error| ask.answer(error.to_string()))?);
        }
        let arrival = get(&self.client, &self.meter, tokens, ask, url, &headers).await?;
        let ask = &arrival.ask;
        check(&arrival.response, range, self.len, ask)?;
        let bytes = read_exact(arrival.response, self.client.policy(), &self.meter, ask, range.len()).await?;
        Ok((bytes, arrival.url))
    }

    fn moved_to(&self) -> Option<Url> {
        self.moved_to.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_moved_to(&self, url: Option<Url>) {
        *self.moved_to.lock().unwrap_or_else(PoisonError::into_inner) = url;
    }
}

#[async_trait]
impl RangeSource for HttpSource {
    fn len(&self) -> u64 {
        self.len
    }

    fn describe(&self) -> String {
        self.place.clone()
    }

    async fn read_range(&self, range: BlobRange) -> Result<Bytes, Error> {
        if range.end() > self.len {
            return Err(Error::OutOfBounds { place: self.describe(), range, len: self.len });
        }
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let ask = Ask::range(&self.place, range);
        with_retries(self.client.policy(), &self.meter, &ask, || self.attempt(range, &ask)).await
    }

    fn meter(&self) -> Option<&Meter> {
        Some(&self.meter)
    }
}

/// Whether the head of an answer promises `range`, and nothing else, of a blob of `len` bytes.
fn check(response: &Response, range: BlobRange, len: u64, ask: &Ask) -> Result<(), Error> {
    match response.status().as_u16() {
        200 if range.len() == len => Ok(()),
        200 => Err(Error::RangeIgnored { place: ask.place.clone(), range }),
        206 => {
            let found = response.headers().get(CONTENT_RANGE).map(HeaderValue::as_bytes).unwrap_or_default();
            let found = String::from_utf8_lossy(found).into_owned();
            match ContentRange::parse(&found) {
                Some(sound) if sound.answers(range, len) => Ok(()),
                _ => Err(Error::ContentRange { place: ask.place.clone(), range, found }),
            }
        }
        status => Err(ask.status(status, retry_after(response.headers(), std::time::SystemTime::now()))),
    }
}

/// Whether a signed address has run out, or what lay there has gone: the first address knows better.
fn is_refusal(error: &Error) -> bool {
    matches!(error, Error::Status { status: 401 | 403 | 404 | 410, .. })
}
