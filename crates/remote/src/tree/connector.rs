//! [`Connector`]: lets the `object_store` crate speak through our own pool, TLS, limits and meter.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ::http::header::{ACCEPT_ENCODING, HeaderValue};
use async_trait::async_trait;
use http_body_util::{BodyExt as _, Limited};
use larder_faults::{Site, check};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient as StoreClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService,
};
use tokio::time::timeout;

use super::s3_keys;
use crate::ask::{Ask, place};
use crate::retry_after::retry_after;
use crate::{Error, HttpClient, Meter};

/// Longest document that is no file: a page of a listing.
const DOCUMENT_BYTES_MAX: usize = 64 << 20;

/// Lets the `object_store` crate speak through our own pool, TLS, limits and meter.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    pub client: HttpClient,
    pub meter: Arc<Meter>,
}

/// A server's refusal that says whether to try again; other statuses mean something to `object_store`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refused {
    pub status: u16,
    pub retry_after: Option<Duration>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server answered {}", self.status)
    }
}

impl std::error::Error for Refused {}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<StoreClient> {
        Ok(StoreClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Connector {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let url: reqwest::Url =
            parts.uri.to_string().parse().map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
        let pool =
            self.client.pool_for(&url).map_err(|error| HttpError::new(HttpErrorKind::Connect, error))?;
        // A document is read whole by whoever asked for it; a file is read piece by piece.
        let is_listing = parts.uri.query().is_some_and(|query| query.contains("list-type="));
        let is_document = is_listing || parts.method.as_str() == "PROPFIND";
        let prefix =
            url.query_pairs().find(|(name, _)| name == "prefix").map(|(_, prefix)| prefix.into_owned());
        let mut asked = reqwest::Request::new(parts.method, url);
        *asked.headers_mut() = parts.headers;
        asked.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(bytes) = body.as_bytes().filter(|bytes| !bytes.is_empty()) {
            *asked.body_mut() = Some(bytes.clone().into());
        }
        let policy = self.client.policy();
        let patience = policy.connect_timeout.saturating_add(policy.read_timeout);
        let (method, place) = (asked.method().clone(), place(asked.url()));
        let broken = |fault| HttpError::new(HttpErrorKind::Interrupted, std::io::Error::from(fault));
        self.meter.count_request();
        check(Site::RemoteConnect).map_err(broken)?;
        let sent = timeout(patience, pool.execute(asked)).await;
        let response = sent.map_err(|late| HttpError::new(HttpErrorKind::Timeout, late))?;
        let response = response.map_err(undone)?;
        check(Site::RemoteHeaders).map_err(broken)?;
        let status = response.status().as_u16();
        tracing::debug!(place, %method, status, "request");
        if status >= 400 && (is_document || !matches!(status, 404 | 412)) {
            let retry_after = retry_after(response.headers(), SystemTime::now());
            return Err(HttpError::new(HttpErrorKind::Unknown, Refused { status, retry_after }));
        }
        let (parts, body) = ::http::Response::<reqwest::Body>::from(response).into_parts();
        let body = if is_document {
            let limited = Limited::new(body, DOCUMENT_BYTES_MAX);
            if is_listing {
                let page = limited.collect().await;
                let page = page.map_err(|error| HttpError::new_boxed(HttpErrorKind::Decode, error))?;
                let (page, hidden) = s3_keys::hide(page.to_bytes(), prefix.as_deref().unwrap_or_default());
                if hidden > 0 {
                    tracing::debug!(place, prefix, hidden, "keys that no path can have are not shown");
                }
                page.into()
            } else {
                let decode = |error| HttpError::new_boxed(HttpErrorKind::Decode, error);
                HttpResponseBody::new(limited.map_err(decode))
            }
        } else {
            HttpResponseBody::new(body.map_err(undone))
        };
        Ok(HttpResponse::from_parts(parts, body))
    }
}

/// Turns an error of the HTTP library into one of `object_store`; its URL, which may carry a signature, is taken out.
fn undone(error: reqwest::Error) -> HttpError {
    let kind = if error.is_timeout() { HttpErrorKind::Timeout } else { HttpErrorKind::Interrupted };
    HttpError::new(kind, error.without_url())
}

/// Turns an error of `object_store` into ours.
pub(super) fn failed(ask: &Ask, error: object_store::Error) -> Error {
    use object_store::Error as Store;
    match &error {
        Store::Precondition { .. } | Store::NotModified { .. } => {
            return Error::Changed { place: ask.place.clone(), range: ask.what.clone() };
        }
        Store::NotFound { .. } => return ask.status(404, None),
        _ => {}
    }
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(this) = cause {
        if let Some(refused) = this.downcast_ref::<Refused>() {
            return match refused.status {
                // The object has got shorter than what is asked for.
                416 => Error::Changed { place: ask.place.clone(), range: ask.what.clone() },
                status => ask.status(status, refused.retry_after),
            };
        }
        if this.is::<reqwest::Error>()
            || this.is::<tokio::time::error::Elapsed>()
            || this.is::<std::io::Error>()
        {
            let (place, range) = (ask.place.clone(), ask.what.clone());
            let source = Box::new(error);
            return if crate::tls::is_refusal(&*source) {
                Error::Tls { place, source }
            } else {
                Error::Connection { place, range, source }
            };
        }
        cause = this.source();
    }
    let (place, range) = (ask.place.clone(), ask.what.clone());
    Error::Store { place, range, source: Box::new(error) }
}
