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
    body::{RESERVED_AHEAD_BYTES_MAX, read_exact},
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

    /// Reads `range` with retries. An attempt goes on where the one before it was cut off.
    async fn deliver(&self, range: BlobRange, taker: &mut dyn Taker) -> Result<(), Error> {
        if range.end() > self.len {
            return Err(Error::OutOfBounds { place: self.describe(), range, len: self.len });
        }
        let ask = Ask::range(&self.place, range);
        let delivery = tokio::sync::Mutex::new(Delivery { whole: range, rest: range, taker });
        with_retries(self.client.policy(), &self.meter, &ask, || self.attempt(&ask, &delivery)).await
    }

    /// One attempt to read what is still missing.
    async fn attempt(&self, ask: &Ask, delivery: &tokio::sync::Mutex<Delivery<'_>>) -> Result<(), Error> {
        let mut delivery = delivery.lock().await;
        if delivery.rest.is_empty() {
            return Ok(());
        }
        let result = self.read_rest(ask, &mut delivery).await;
        if let Err(error) = &result
            && !matches!(error, Error::Connection { .. } | Error::Timeout { .. })
        {
            // Whoever gets the length or the range wrong may have got these bytes wrong, too.
            delivery.take_back();
        }
        result
    }

    /// Reads the rest: from the remembered place first, then from the address itself.
    async fn read_rest(&self, ask: &Ask, delivery: &mut Delivery<'_>) -> Result<(), Error> {
        let moved_to = lock(&self.moved_to).clone();
        if let Some(moved_to) = moved_to {
            match self.read_rest_from(&moved_to, None, &ask.redirected(&moved_to), delivery).await {
                Ok(_) => return Ok(()),
                Err(error) => {
                    *lock(&self.moved_to) = None;
                    if !is_refusal(&error) {
                        return Err(error);
                    }
                }
            }
        }
        let from = self.read_rest_from(&self.url, self.tokens.as_deref(), ask, delivery).await?;
        if from.origin() != self.url.origin() {
            *lock(&self.moved_to) = Some(from);
        }
        Ok(())
    }

    /// Reads the rest, asked for at `url`, and returns the address that it came from in the end.
    async fn read_rest_from(
        &self,
        url: &Url,
        tokens: Option<&Tokens>,
        ask: &Ask,
        delivery: &mut Delivery<'_>,
    ) -> Result<Url, Error> {
        let range = delivery.rest;
        let (whole, mut headers) = (range.len() == self.len, HeaderMap::new());
        if !whole {
            let text = format!("bytes={}-{}", range.start(), range.end() - 1);
            headers
                .insert(RANGE, HeaderValue::try_from(text).map_err(|error| ask.answer(error.to_string()))?);
        }
        let Arrival { response, url, ask } =
            get(&self.client, &self.meter, tokens, ask, url, &headers).await?;
        check(&response, range, self.len, &ask)?;
        read_exact(response, self.client.policy(), &self.meter, &ask, range.len(), &mut |piece| {
            delivery.pass(piece)
        })
        .await?;
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

    fn origin(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    async fn read_range(&self, range: BlobRange) -> Result<Bytes, Error> {
        let mut bytes = BytesMut::new();
        // Reserved ahead for at most this much: the caller's word for the length may come from elsewhere, too.
        bytes.reserve(usize::try_from(range.len().min(RESERVED_AHEAD_BYTES_MAX)).unwrap_or(0));
        self.deliver(range, &mut bytes).await?;
        Ok(bytes.freeze())
    }

    async fn read_stream(&self, range: BlobRange, sink: &mut (dyn FnMut(Bytes) + Send)) -> Result<(), Error> {
        self.deliver(range, &mut Forward(sink)).await
    }

    fn meter(&self) -> Option<&Meter> {
        Some(&self.meter)
    }
}

/// Who gets the bytes of a read.
trait Taker: Send {
    /// Gets the next bytes.
    fn pass(&mut self, piece: Bytes);

    /// Forgets everything it got, if it still can.
    fn take_back(&mut self) -> bool;
}

impl Taker for BytesMut {
    fn pass(&mut self, piece: Bytes) {
        self.extend_from_slice(&piece);
    }

    fn take_back(&mut self) -> bool {
        self.clear();
        true
    }
}

/// Hands bytes on as they come: what is out stays out, and whoever has it checks it.
struct Forward<'a>(&'a mut (dyn FnMut(Bytes) + Send));

impl Taker for Forward<'_> {
    fn pass(&mut self, piece: Bytes) {
        (self.0)(piece);
    }

    fn take_back(&mut self) -> bool {
        false
    }
}

/// A read under way: what is still missing, and who gets it.
struct Delivery<'a> {
    whole: BlobRange,
    rest: BlobRange,
    taker: &'a mut dyn Taker,
}

impl Delivery<'_> {
    fn pass(&mut self, piece: Bytes) {
        let start = self.rest.start() + piece.len() as u64;
        // No piece is longer than the rest: see `read_exact`.
        self.rest = BlobRange::new(start, self.rest.end()).unwrap_or(self.rest);
        self.taker.pass(piece);
    }

    fn take_back(&mut self) {
        if self.taker.take_back() {
            self.rest = self.whole;
        }
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
