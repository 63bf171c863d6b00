//! [`HttpSource`]: one blob behind an address.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
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
    redirect::Arrival,
    retry::with_retries,
    retry_after::retry_after,
    token::{Tokens, get},
};

/// One blob behind an address, read by range.
///
/// Where the address redirects to another host, as registries do to signed addresses, that place is remembered and
/// asked directly until it fails.
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

    /// One attempt to read `range`. What came before the connection broke is `kept` for the next attempt, which asks
    /// for the rest only.
    async fn attempt(&self, range: BlobRange, ask: &Ask, kept: &Mutex<BytesMut>) -> Result<Bytes, Error> {
        let mut bytes = std::mem::take(&mut *lock(kept));
        let rest = BlobRange::new(range.start() + bytes.len() as u64, range.end());
        if let Some(rest) = rest.filter(|rest| !rest.is_empty())
            && let Err(error) = self.append(rest, ask, &mut bytes).await
        {
            if matches!(error, Error::Connection { .. } | Error::Timeout { .. }) {
                *lock(kept) = bytes;
            }
            return Err(error);
        }
        Ok(bytes.freeze())
    }

    /// Appends `range` to `bytes`: from the remembered place first, then from the address itself.
    async fn append(&self, range: BlobRange, ask: &Ask, bytes: &mut BytesMut) -> Result<(), Error> {
        let moved_to = lock(&self.moved_to).clone();
        if let Some(moved_to) = moved_to {
            match self.append_from(&moved_to, None, range, &ask.redirected(&moved_to), bytes).await {
                Ok(_) => return Ok(()),
                Err(error) => {
                    *lock(&self.moved_to) = None;
                    if !is_refusal(&error) {
                        return Err(error);
                    }
                }
            }
        }
        let from = self.append_from(&self.url, self.tokens.as_deref(), range, ask, bytes).await?;
        if from.origin() != self.url.origin() {
            *lock(&self.moved_to) = Some(from);
        }
        Ok(())
    }

    /// Appends `range`, asked for at `url`, and returns the address that it came from in the end.
    async fn append_from(
        &self,
        url: &Url,
        tokens: Option<&Tokens>,
        range: BlobRange,
        ask: &Ask,
        bytes: &mut BytesMut,
    ) -> Result<Url, Error> {
        let (whole, mut headers) = (range.len() == self.len, HeaderMap::new());
        if !whole {
            let text = format!("bytes={}-{}", range.start(), range.end() - 1);
            headers
                .insert(RANGE, HeaderValue::try_from(text).map_err(|error| ask.answer(error.to_string()))?);
        }
        let Arrival { response, url, ask } =
            get(&self.client, &self.meter, tokens, ask, url, &headers).await?;
        check(&response, range, self.len, &ask)?;
        read_exact(response, self.client.policy(), &self.meter, &ask, range.len(), bytes).await?;
        Ok(url)
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
        let kept = Mutex::default();
        with_retries(self.client.policy(), &self.meter, &ask, || self.attempt(range, &ask, &kept)).await
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

/// Whether a signed address has run out (some stores say 400), or what lay there has gone: the first address knows
/// better.
fn is_refusal(error: &Error) -> bool {
    matches!(error, Error::Status { status: 400 | 401 | 403 | 404 | 410, .. })
}

/// Nothing panics while it holds these locks, and what they guard is sound at any moment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
