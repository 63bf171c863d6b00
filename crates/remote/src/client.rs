//! [`HttpClient`]: the shared pool of connections, and one request over it.

use std::{sync::Arc, sync::OnceLock, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method,
    header::{ACCEPT_ENCODING, CONTENT_ENCODING},
};
use larder_faults::{Site, check};
use reqwest::{Response, Url, redirect};
use tokio::time::{Instant, timeout};
use tracing::debug;

use crate::{Error, HttpSource, Meter, Policy, ask::Ask, ask::place, registry, tls};

const USER_AGENT: &str = concat!("larder/", env!("CARGO_PKG_VERSION"));
const IDLE_CONNECTIONS_PER_HOST: usize = 16;
const IDLE_CONNECTION_KEPT: Duration = Duration::from_secs(60);

/// A pool of connections under one [`Policy`]; clones share it.
///
/// TLS and the host's certificates are set up with the first `https` address, so plain `http` costs neither time
/// nor memory for them. Proxies of the environment are used for `https` only.
#[derive(Clone, Debug)]
pub struct HttpClient {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    policy: Policy,
    plain: reqwest::Client,
    secure: OnceLock<reqwest::Client>,
}

impl HttpClient {
    /// Makes a client; no connection is made yet.
    ///
    /// # Errors
    ///
    /// [`Error::Tls`] when the HTTP library cannot be set up.
    pub fn new(policy: Policy) -> Result<Self, Error> {
        let plain = match tls::trusting_nobody() {
            Ok(config) => pool(&policy, config, true),
            Err(source) => Err(source),
        };
        let plain = plain.map_err(|source| Error::Tls { place: "http".into(), source })?;
        Ok(Self { inner: Arc::new(Inner { policy, plain, secure: OnceLock::new() }) })
    }

    /// Returns the blob of `len` bytes at `url`, which is `http` or `https`. Makes no request.
    ///
    /// # Errors
    ///
    /// [`Error::Address`] when `url` is none that can be used.
    pub fn blob(&self, url: &str, len: u64) -> Result<HttpSource, Error> {
        Ok(HttpSource::new(self.clone(), parse_url(url)?, len, None))
    }

    /// Gets the whole document at `url`, at most `max_bytes` of it, with the headers of the answer.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`] when there is more, [`Error::Status`] unless the answer is 200, and any other [`Error`].
    pub async fn get_bounded(
        &self,
        url: &str,
        accept: &[&str],
        max_bytes: u64,
    ) -> Result<(Bytes, HeaderMap), Error> {
        let url = parse_url(url)?;
        let ask = Ask::new(&url, "document", max_bytes);
        registry::get_document(self, &Meter::default(), None, &ask, &url, accept).await
    }

    /// The policy that every request of this client follows.
    pub fn policy(&self) -> &Policy {
        &self.inner.policy
    }

    /// Sends one GET and returns the answer's head, whatever its status; redirects are not followed.
    pub(crate) async fn send(
        &self,
        meter: &Meter,
        ask: &Ask,
        url: &Url,
        headers: HeaderMap,
    ) -> Result<Response, Error> {
        self.send_as(Method::GET, meter, ask, url, headers).await
    }

    /// The same by another method.
    pub(crate) async fn send_as(
        &self,
        method: Method,
        meter: &Meter,
        ask: &Ask,
        url: &Url,
        mut headers: HeaderMap,
    ) -> Result<Response, Error> {
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let request = self.pool_for(url)?.request(method, url.clone()).headers(headers);
        let (started, policy) = (Instant::now(), self.policy());
        let patience = policy.connect_timeout.saturating_add(policy.read_timeout);
        meter.count_request();
        check(Site::RemoteConnect).map_err(|fault| ask.broken(fault))?;
        let sent = timeout(patience, request.send()).await.map_err(|_| ask.timeout(patience))?;
        let response = sent.map_err(|error| ask.failed(error, policy.connect_timeout))?;
        check(Site::RemoteHeaders).map_err(|fault| ask.broken(fault))?;
        let status = response.status().as_u16();
        debug!(place = place(url), range = ask.what, status, took = ?started.elapsed(), "request");
        match response.headers().get(CONTENT_ENCODING) {
            Some(found) if found != "identity" => Err(ask.answer(format!(
                "the server answered in Content-Encoding {found:?}, which was not asked for"
            ))),
            _ => Ok(response),
        }
    }

    /// The connections for the scheme of `url`.
    pub(crate) fn pool_for(&self, url: &Url) -> Result<&reqwest::Client, Error> {
        if url.scheme() != "https" {
            return Ok(&self.inner.plain);
        }
        if let Some(secure) = self.inner.secure.get() {
            return Ok(secure);
        }
        let made = tls::trusting_the_host().and_then(|config| pool(self.policy(), config, false));
        let made = made.map_err(|source| Error::Tls { place: place(url), source })?;
        Ok(self.inner.secure.get_or_init(|| made))
    }
}

fn pool(
    policy: &Policy,
    tls: rustls::ClientConfig,
    direct: bool,
) -> Result<reqwest::Client, Box<dyn std::error::Error + Send + Sync>> {
    let builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .user_agent(USER_AGENT)
        .redirect(redirect::Policy::none())
        .referer(false)
        .connect_timeout(policy.connect_timeout)
        .pool_max_idle_per_host(IDLE_CONNECTIONS_PER_HOST)
        .pool_idle_timeout(IDLE_CONNECTION_KEPT);
    let builder = if direct { builder.no_proxy() } else { builder };
    Ok(builder.build()?)
}

/// Reads an address that requests may go to.
pub(crate) fn parse_url(text: &str) -> Result<Url, Error> {
    let url = Url::parse(text);
    let reason = match &url {
        Err(error) => error.to_string(),
        Ok(url) if !matches!(url.scheme(), "http" | "https") => "neither http nor https".into(),
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            "user and password do not belong into an address".into()
        }
        Ok(url) => return Ok(url.clone()),
    };
    let place = url.map_or_else(|_| text.to_owned(), |url| place(&url));
    Err(Error::Address { place, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_cannot_be_used_is_refused_without_telling_its_password() {
        for text in ["", "blob", "ftp://host/x", "file:///x", "https://me:secret@host/x", "http://"] {
            let error = parse_url(text).expect_err("refused");
            assert!(matches!(error, Error::Address { .. }), "{text}: {error}");
            assert!(!error.to_string().contains("secret"));
        }
    }

    #[test]
    fn a_client_for_plain_http_reads_no_certificates() {
        let client = HttpClient::new(Policy::default()).expect("a client");
        assert!(client.inner.secure.get().is_none());
    }
}
