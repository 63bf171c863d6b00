//! [`Registry`]: one repository of an OCI registry, read side.
//!
//! Source of truth: OCI distribution-spec v1.1, "Pulling manifests" and "Pulling blobs".

use std::{sync::Arc, time::SystemTime};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue,
    header::{ACCEPT, CONTENT_TYPE},
};
use oci_spec::image::Digest;
use reqwest::Url;

use crate::{
    Error, HttpClient, HttpSource, Meter, RangeSource,
    ask::Ask,
    body::read_bounded,
    client::parse_url,
    names::{Host, ManifestName, Repository},
    redirect::Arrival,
    retry::with_retries,
    retry_after::retry_after,
    token::{Tokens, get},
};

/// The distribution spec wants registries to take manifests of 4 MiB; larger ones are refused here.
const MANIFEST_BYTES_MAX: u64 = 4 * 1024 * 1024;

const MANIFEST_TYPES: [&str; 4] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// One repository of an OCI registry, read anonymously. Clones share tokens and counters.
#[derive(Clone, Debug)]
pub struct Registry {
    client: HttpClient,
    base: Url,
    tokens: Arc<Tokens>,
    meter: Arc<Meter>,
}

/// A manifest or index as it came; nothing in it is verified yet.
#[derive(Clone, Debug)]
pub struct FetchedManifest {
    /// The document.
    pub bytes: Bytes,
    /// `Content-Type` of the answer.
    pub media_type: Option<String>,
    /// `Docker-Content-Digest` of the answer: what the registry believes, not what was computed.
    pub digest: Option<Digest>,
}

impl Registry {
    /// Returns `repository` at `host` (`HOST[:PORT]`): by `http` on the loopback, by `https` elsewhere. Makes no
    /// request.
    ///
    /// # Errors
    ///
    /// [`Error::Address`] when a name is not one of the distribution spec.
    pub fn new(client: HttpClient, host: &str, repository: &str) -> Result<Self, Error> {
        let host: Host = host.parse()?;
        let scheme = if host.is_loopback() { "http" } else { "https" };
        Self::at(client, scheme, &host, &repository.parse()?)
    }

    /// Like [`Registry::new`], but by `http` wherever the host is: everyone on the way can read along, and only
    /// digests protect what comes.
    ///
    /// # Errors
    ///
    /// Those of [`Registry::new`].
    pub fn insecure(client: HttpClient, host: &str, repository: &str) -> Result<Self, Error> {
        Self::at(client, "http", &host.parse()?, &repository.parse()?)
    }

    fn at(client: HttpClient, scheme: &str, host: &Host, repository: &Repository) -> Result<Self, Error> {
        let base = parse_url(&format!("{scheme}://{host}/v2/{repository}/"))?;
        Ok(Self { client, base, tokens: Arc::default(), meter: Arc::default() })
    }

    /// Fetches the manifest or index called `reference`, a tag or a digest; at most 4 MiB.
    ///
    /// # Errors
    ///
    /// [`Error::Address`] when `reference` is neither, [`Error::TooLarge`], and any other [`Error`].
    pub async fn manifest(&self, reference: &str) -> Result<FetchedManifest, Error> {
        let name: ManifestName = reference.parse()?;
        let url = self.url("manifests", &name);
        let ask = Ask::new(&url, "manifest", MANIFEST_BYTES_MAX);
        let tokens = Some(&*self.tokens);
        let (bytes, headers) =
            get_document(&self.client, &self.meter, tokens, &ask, &url, &MANIFEST_TYPES).await?;
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let media_type = text(CONTENT_TYPE.as_str()).map(str::to_owned);
        let digest = text("docker-content-digest").and_then(|digest| digest.parse().ok());
        Ok(FetchedManifest { bytes, media_type, digest })
    }

    /// Returns the blob `digest` of `len` bytes, as its descriptor states them. Makes no request.
    pub fn blob(&self, digest: &Digest, len: u64) -> Arc<dyn RangeSource> {
        let tokens = Some(Arc::clone(&self.tokens));
        Arc::new(HttpSource::new(self.client.clone(), self.url("blobs", digest), len, tokens))
    }

    /// What was asked for manifests so far; blobs count for themselves.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// What the repository is called in messages.
    pub fn describe(&self) -> String {
        self.base.to_string()
    }

    fn url(&self, kind: &str, name: &dyn std::fmt::Display) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{kind}/{name}", self.base.path()));
        url
    }
}

/// Gets a whole document of at most `ask.bytes` bytes, with the headers of the answer.
pub(crate) async fn get_document(
    client: &HttpClient,
    meter: &Meter,
    tokens: Option<&Tokens>,
    ask: &Ask,
    url: &Url,
    accept: &[&str],
) -> Result<(Bytes, HeaderMap), Error> {
    let mut headers = HeaderMap::new();
    if !accept.is_empty() {
        let kinds = HeaderValue::try_from(accept.join(", "));
        headers.insert(ACCEPT, kinds.map_err(|error| ask.answer(error.to_string()))?);
    }
    let headers = &headers;
    with_retries(client.policy(), meter, ask, || async move {
        let Arrival { response, ask, .. } = get(client, meter, tokens, ask, url, headers).await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        if status != 200 {
            return Err(ask.status(status, retry_after(&headers, SystemTime::now())));
        }
        Ok((read_bounded(response, client.policy(), meter, &ask).await?, headers))
    })
    .await
}
