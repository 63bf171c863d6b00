//! From a request to a response.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, ALLOW, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_RANGE, RANGE,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};

use super::body::{Body, Content, send};
use super::failure::Failure;
use super::layout::{Document, Layout, Sha256};
use super::link::Link;
use super::route::Route;
use super::span::Span;
use super::traffic::Counters;

/// What every request needs.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) layout: Layout,
    pub(super) link: Link,
    pub(super) counters: Arc<Counters>,
}

/// A response before it is put on the link.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    content: Content,
}

impl Service {
    /// Answers one request: one round trip, then the head, then the body at the link's pace.
    pub(super) async fn answer<B>(self: Arc<Self>, request: Request<B>) -> Response<Body> {
        self.counters.request();
        self.link.round_trip().await;
        let mut flow = self.link.flow();
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let answer = self.find(&method, &path, request.headers()).unwrap_or_else(Answer::failed);
        tracing::debug!(%method, path, status = answer.status.as_u16(), range = ?request.headers().get(RANGE), "serve_request");

        let content = if method == Method::HEAD { Content::Nothing } else { answer.content };
        flow.send(head_bytes(&answer.headers)).await;
        let piece_bytes = self.link.piece_bytes();
        let mut response = Response::new(send(content, flow, piece_bytes, Arc::clone(&self.counters)));
        *response.status_mut() = answer.status;
        *response.headers_mut() = answer.headers;
        response
    }

    fn find(&self, method: &Method, path: &str, headers: &HeaderMap) -> Result<Answer, Failure> {
        if method != Method::GET && method != Method::HEAD {
            return Err(Failure::Method);
        }
        match Route::parse(path)? {
            Route::Base => Ok(Answer::json(b"{}".to_vec())),
            Route::Tags(name) => {
                let tags = self.layout.tags().map_err(|error| unreadable(&error))?;
                Ok(Answer::json(serde_json::json!({ "name": name, "tags": tags }).to_string().into_bytes()))
            }
            Route::TaggedManifest(tag) => manifest(self.layout.tagged(&tag)),
            Route::Manifest(digest) => manifest(self.layout.manifest(&digest)),
            Route::Blob(digest) => self.blob(&digest, method, headers),
        }
    }

    fn blob(&self, digest: &Sha256, method: &Method, headers: &HeaderMap) -> Result<Answer, Failure> {
        let (file, len) =
            self.layout.blob(digest).map_err(|error| unreadable(&error))?.ok_or(Failure::BlobUnknown)?;
        let etag = format!("\"{digest}\"");
        let wants_range = method == Method::GET
            && headers.get(IF_RANGE).is_none_or(|condition| condition.as_bytes() == etag.as_bytes());
        let range = headers.get(RANGE).filter(|_| wants_range).and_then(|value| value.to_str().ok());
        let (status, start, end) = match Span::parse(range, len) {
            Span::Whole => (StatusCode::OK, 0, len),
            Span::Part { start, end } => (StatusCode::PARTIAL_CONTENT, start, end),
            Span::Outside => return Err(Failure::Range { len }),
        };
        let content = Content::File { file: Arc::new(file), start, end };
        let mut answer = Answer::new(status, "application/octet-stream", end - start, content);
        if status == StatusCode::PARTIAL_CONTENT {
            answer.header(CONTENT_RANGE, &format!("bytes {start}-{}/{len}", end - 1));
        }
        answer.header(ACCEPT_RANGES, "bytes");
        answer.header(ETAG, &etag);
        answer.header(DOCKER_CONTENT_DIGEST, &digest.to_string());
        Ok(answer)
    }
}

const DOCKER_CONTENT_DIGEST: &str = "docker-content-digest";
const API_VERSION: &str = "docker-distribution-api-version";

fn manifest(found: io::Result<Option<Document>>) -> Result<Answer, Failure> {
    let document = found.map_err(|error| unreadable(&error))?.ok_or(Failure::ManifestUnknown)?;
    let len = u64::try_from(document.bytes.len()).unwrap_or(0);
    let content = Content::Bytes(Bytes::from(document.bytes));
    let mut answer = Answer::new(StatusCode::OK, &document.media_type, len, content);
    answer.header(DOCKER_CONTENT_DIGEST, &document.digest.to_string());
    Ok(answer)
}

fn unreadable(error: &(dyn std::error::Error + 'static)) -> Failure {
    tracing::error!(error, "serve_layout_unreadable");
    Failure::Layout
}

/// What the head takes on the wire, near enough: the status line, the headers, the date that hyper adds.
fn head_bytes(headers: &HeaderMap) -> u64 {
    let fields: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    u64::try_from(fields + 60).unwrap_or(0)
}

impl Answer {
    fn new(status: StatusCode, media_type: &str, len: u64, content: Content) -> Self {
        let mut answer = Self { status, headers: HeaderMap::new(), content };
        answer.header(API_VERSION, "registry/2.0");
        answer.header(CONTENT_TYPE, media_type);
        answer.header(CONTENT_LENGTH, &len.to_string());
        answer
    }

    fn json(bytes: Vec<u8>) -> Self {
        let len = u64::try_from(bytes.len()).unwrap_or(0);
        Self::new(StatusCode::OK, "application/json", len, Content::Bytes(Bytes::from(bytes)))
    }

    fn failed(failure: Failure) -> Self {
        let mut answer = Self::json(failure.body());
        answer.status = failure.status();
        match failure {
            Failure::Range { len } => answer.header(CONTENT_RANGE, &format!("bytes */{len}")),
            Failure::Method => answer.header(ALLOW, "GET, HEAD"),
            _ => {}
        }
        answer
    }

    /// Sets a header; a value that cannot stand in one is left out.
    fn header(&mut self, name: impl http::header::IntoHeaderName, value: &str) {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
    }
}
