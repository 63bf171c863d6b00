//! [`HttpTree`]: a tree behind an HTTP server.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::SystemTime;

use ::http::Method;
use ::http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE,
};
use async_trait::async_trait;
use bytes::Bytes;
use object_store::http::{HttpBuilder, HttpStore};
use object_store::path::Path;
use object_store::{ListResult, ObjectStore as _, RetryConfig};
use reqwest::{Response, Url};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::connector::{Connector, failed};
use super::webdav::{WebDav, is_about_method};
use super::{ENTRIES_MAX, FileVersion, Listed, TreeEntry, TreeNode, TreePath, TreeStore, index};
use crate::ask::Ask;
use crate::body::{read_bounded, read_exact};
use crate::content_range::ContentRange;
use crate::redirect::{Arrival, follow};
use crate::retry::with_retries;
use crate::retry_after::retry_after;
use crate::{BlobRange, Error, HttpClient, Meter};

/// Longest index of a directory.
const INDEX_BYTES_MAX: u64 = 64 << 20;
/// Of an index that is waited for as long as its length deserves: longer ones have to come faster.
const INDEX_BYTES: u64 = 4 << 20;

/// A tree behind an HTTP server: listed by WebDAV where the server has it, else by its HTML indexes.
pub struct HttpTree {
    client: HttpClient,
    meter: Arc<Meter>,
    base: Url,
    place: String,
    dav: HttpStore,
    webdav: std::sync::Mutex<WebDav>,
}

impl HttpTree {
    /// The tree at `base`, which ends with `/`. Makes no request.
    ///
    /// # Errors
    ///
    /// [`Error::Address`] when it cannot be asked.
    pub fn new(client: HttpClient, base: Url) -> Result<Self, Error> {
        let (meter, place) = (Arc::<Meter>::default(), crate::ask::place(&base));
        let dav = HttpBuilder::new()
            .with_url(base.as_str())
            .with_http_connector(Connector { client: client.clone(), meter: Arc::clone(&meter) })
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
            .build()
            .map_err(|error| Error::Address { place: place.clone(), reason: error.to_string() })?;
        Ok(Self { client, meter, base, place, dav, webdav: std::sync::Mutex::default() })
    }

    fn url(&self, path: &TreePath, is_directory: bool) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path.components());
            if is_directory {
                segments.push("");
            }
        }
        url
    }

    fn ask(&self, url: &Url, what: impl Into<String>, bytes: u64) -> Ask {
        Ask::new(url, what, bytes)
    }

    /// Lists by WebDAV; `None` when the server refuses to, or it is not known whether it can and it has not answered so.
    async fn list_by_dav(&self, directory: &TreePath) -> Result<Option<Vec<TreeEntry>>, Error> {
        let url = self.url(directory, true);
        let (Ok(path), Some(base)) = (Path::parse(directory.as_str()), index::percent_decode(url.path()))
        else {
            return Ok(None);
        };
        let Some(known) = self.webdav().ask(Instant::now()) else { return Ok(None) };
        let ask = self.ask(&url, "WebDAV listing", 0);
        let attempt = || async {
            let listed = self.dav.list_with_delimiter((!directory.is_root()).then_some(&path)).await;
            listed.map_err(|error| failed(&ask, error))
        };
        let listed = if known == WebDav::Spoken {
            with_retries(self.client.policy(), &self.meter, &ask, attempt).await
        } else {
            // One attempt: most servers have indexes only.
            let allowed = self.client.policy().deadline_for(0);
            timeout(allowed, attempt()).await.unwrap_or_else(|_| Err(ask.timeout(allowed)))
        };
        tracing::debug!(place = self.place, webdav = listed.is_ok(), "listing");
        match listed {
            Ok(listed) => {
                *self.webdav() = WebDav::Spoken;
                let entries = entries(&listed, base.trim_matches('/'));
                let too_many =
                    || Error::TooLarge { place: ask.place, range: ask.what, max: ENTRIES_MAX as u64 };
                entries.map(Some).ok_or_else(too_many)
            }
            Err(error) => {
                let mut webdav = self.webdav();
                webdav.failed(known, &error, Instant::now());
                // A directory of such a server may not be listed so; of any other error it may be that all of them are.
                let is_listed_so = *webdav == WebDav::Spoken && !is_about_method(&error);
                if is_listed_so { Err(error) } else { Ok(None) }
            }
        }
    }

    /// Nothing panics while it holds the lock.
    fn webdav(&self) -> MutexGuard<'_, WebDav> {
        self.webdav.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn list_by_index(&self, directory: &TreePath) -> Result<Vec<TreeEntry>, Error> {
        let url = self.url(directory, true);
        let ask = self.ask(&url, "index of the directory", INDEX_BYTES_MAX);
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("text/html"));
        let patience = Ask { bytes: INDEX_BYTES, ..ask.clone() };
        let (page, base) = with_retries(self.client.policy(), &self.meter, &patience, || async {
            let Arrival { response, url, ask } =
                follow(&self.client, &self.meter, &ask, &url, &headers, None).await?;
            expect(&response, 200, &ask)?;
            let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
            if !kind.is_some_and(|kind| kind.starts_with("text/html")) {
                return Err(ask.answer("the directory has no index: the answer is no HTML"));
            }
            Ok((read_bounded(response, self.client.policy(), &self.meter, &ask).await?, url))
        })
        .await?;
        let page = String::from_utf8_lossy(&page);
        index::parse(&page, &base, ENTRIES_MAX).ok_or(Error::TooLarge {
            place: ask.place,
            range: ask.what,
            max: ENTRIES_MAX as u64,
        })
    }

    /// Asks for the head of what lies at `path`.
    async fn head(&self, path: &TreePath, ask: &Ask) -> Result<Option<TreeNode>, Error> {
        let url = self.url(path, false);
        let (mut here, mut asked) = (url.clone(), ask.clone());
        for _ in 0..=REDIRECTS_MAX {
            let response =
                self.client.send_as(Method::HEAD, &self.meter, &asked, &here, HeaderMap::new()).await?;
            match response.status().as_u16() {
                200 => return self.file(&here, &response, &asked).await.map(Some),
                404 | 410 => return Ok(None),
                301 | 302 | 303 | 307 | 308 => {
                    let next = crate::redirect::next_url(&here, response.headers())
                        .map_err(|reason| asked.redirect(reason))?;
                    // How every server says that it is a directory.
                    if next.path() == format!("{}/", here.path()) {
                        return Ok(Some(TreeNode::Directory));
                    }
                    asked = asked.redirected(&next);
                    here = next;
                }
                status => {
                    return Err(asked.status(status, retry_after(response.headers(), SystemTime::now())));
                }
            }
        }
        Err(asked.redirect(format!("redirected more than {REDIRECTS_MAX} times")))
    }

    /// What the head of a file says; where it does not tell the length, the first byte is asked for.
    async fn file(&self, url: &Url, head: &Response, ask: &Ask) -> Result<TreeNode, Error> {
        let length = head.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        if let Some(size) = length {
            return Ok(TreeNode::File(FileVersion::of(head.headers(), size)));
        }
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, HeaderValue::from_static("bytes=0-0"));
        let response = self.client.send_as(Method::GET, &self.meter, ask, url, headers).await?;
        expect(&response, 206, ask)?;
        let total = content_range(&response).and_then(|range| range.total);
        let size = total.ok_or_else(|| ask.answer("the server does not tell how long the file is"))?;
        Ok(TreeNode::File(FileVersion::of(response.headers(), size)))
    }

    /// One attempt to read what is still missing.
    async fn attempt(
        &self,
        url: &Url,
        version: &FileVersion,
        ask: &Ask,
        delivery: &Mutex<(BlobRange, &mut (dyn FnMut(Bytes) + Send))>,
    ) -> Result<(), Error> {
        let mut delivery = delivery.lock().await;
        let (rest, sink) = &mut *delivery;
        let mut headers = HeaderMap::new();
        let text = format!("bytes={}-{}", rest.start(), rest.end() - 1);
        headers.insert(RANGE, HeaderValue::try_from(text).map_err(|error| ask.answer(error.to_string()))?);
        headers.extend(version.condition());
        let mut arrival = follow(&self.client, &self.meter, ask, url, &headers, None).await?;
        if version.settled_after(arrival.response.headers()) {
            // Out of a cache in between: the server itself may have what is meant.
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            arrival = follow(&self.client, &self.meter, ask, url, &headers, None).await?;
        }
        let Arrival { response, ask, .. } = arrival;
        check(&response, *rest, version, &ask)?;
        let expected = rest.len();
        read_exact(response, self.client.policy(), &self.meter, &ask, expected, &mut |piece| {
            let start = rest.start() + piece.len() as u64;
            // No piece is longer than the rest: see `read_exact`.
            *rest = BlobRange::new(start, rest.end()).unwrap_or(*rest);
            sink(piece);
        })
        .await
    }
}

/// What lies directly in the directory at `base`; `None` when that is too much. Paths come from the root of the server.
fn entries(listed: &ListResult, base: &str) -> Option<Vec<TreeEntry>> {
    let name = |path: &Path| {
        let rest = path.as_ref().strip_prefix(base)?.trim_start_matches('/').to_owned();
        super::path::is_name(&rest).then_some(rest)
    };
    let directories = listed.common_prefixes.iter().filter_map(name);
    let files = listed.objects.iter().filter_map(|meta| name(&meta.location));
    // The entity tag of a listing is not always that of an answer: the version is asked for when it matters.
    let mut entries: Vec<TreeEntry> =
        directories.map(|name| TreeEntry { name, node: Listed::Directory }).collect();
    entries.extend(files.map(|name| TreeEntry { name, node: Listed::File }));
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    entries.dedup_by(|a, b| a.name == b.name);
    (entries.len() <= ENTRIES_MAX).then_some(entries)
}

/// Redirects followed for one question.
const REDIRECTS_MAX: usize = 5;

#[async_trait]
impl TreeStore for HttpTree {
    fn describe(&self) -> String {
        self.place.clone()
    }

    async fn list(&self, directory: &TreePath) -> Result<Vec<TreeEntry>, Error> {
        if let Some(entries) = self.list_by_dav(directory).await? {
            return Ok(entries);
        }
        self.list_by_index(directory).await
    }

    async fn look_up(&self, path: &TreePath) -> Result<Option<TreeNode>, Error> {
        if path.is_root() {
            return Ok(Some(TreeNode::Directory));
        }
        let ask = self.ask(&self.url(path, false), "attributes", 0);
        with_retries(self.client.policy(), &self.meter, &ask, || self.head(path, &ask)).await
    }

    async fn read(
        &self,
        path: &TreePath,
        range: BlobRange,
        version: &FileVersion,
        sink: &mut (dyn FnMut(Bytes) + Send),
    ) -> Result<(), Error> {
        let url = self.url(path, false);
        let ask = self.ask(&url, range.to_string(), range.len());
        if range.end() > version.size {
            return Err(Error::OutOfBounds { place: ask.place, range, len: version.size });
        }
        if range.is_empty() {
            return Ok(());
        }
        let delivery = Mutex::new((range, sink));
        let policy = self.client.policy();
        with_retries(policy, &self.meter, &ask, || self.attempt(&url, version, &ask, &delivery)).await
    }

    fn meter(&self) -> &Meter {
        &self.meter
    }
}

fn content_range(response: &Response) -> Option<ContentRange> {
    ContentRange::parse(response.headers().get(CONTENT_RANGE)?.to_str().ok()?)
}

fn expect(response: &Response, status: u16, ask: &Ask) -> Result<(), Error> {
    match response.status().as_u16() {
        found if found == status => Ok(()),
        found => Err(ask.status(found, retry_after(response.headers(), SystemTime::now()))),
    }
}

/// Whether the head of an answer promises `range` of `version`, and nothing else.
fn check(response: &Response, range: BlobRange, version: &FileVersion, ask: &Ask) -> Result<(), Error> {
    let changed = || Error::Changed { place: ask.place.clone(), range: ask.what.clone() };
    let headers = response.headers();
    match response.status().as_u16() {
        // The range is not in the file any more, or the condition does not hold.
        412 | 416 => Err(changed()),
        200 => {
            let length = response.content_length();
            if !version.agrees(headers, length) {
                return Err(changed());
            }
            if range.len() == version.size {
                return Ok(());
            }
            Err(Error::RangeIgnored { place: ask.place.clone(), range })
        }
        206 => {
            let found = content_range(response);
            if !version.agrees(headers, found.and_then(|found| found.total)) {
                return Err(changed());
            }
            match found {
                Some(found) if found.answers(range, version.size) => Ok(()),
                _ => {
                    let found = headers.get(CONTENT_RANGE).map(HeaderValue::as_bytes).unwrap_or_default();
                    let found = String::from_utf8_lossy(found).into_owned();
                    Err(Error::ContentRange { place: ask.place.clone(), range, found })
                }
            }
        }
        status => Err(ask.status(status, retry_after(headers, SystemTime::now()))),
    }
}
