//! [`S3Tree`]: a tree in anything that speaks the S3 protocol.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::join;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::list::{PaginatedListOptions, PaginatedListResult, PaginatedListStore as _};
use object_store::path::{DELIMITER, Path};
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt as _, RetryConfig};
use reqwest::Url;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::address::is_loopback;
use super::connector::{Connector, failed};
use super::s3_keys;
use super::version::is_weak;
use super::{ENTRIES_MAX, FileVersion, Listed, TreeEntry, TreeNode, TreePath, TreeStore};
use crate::ask::Ask;
use crate::body::cut;
use crate::retry::with_retries;
use crate::{BlobRange, Error, HttpClient, Meter};

/// How to reach a bucket. Nothing of it is ever printed.
#[derive(Clone, Default)]
pub struct S3Options {
    /// What the environment says under names that begin with `AWS_`: endpoint, region, credentials.
    pub environment: Vec<(String, String)>,
    /// Ask without credentials.
    pub anonymous: bool,
    /// Speak plain HTTP to an endpoint that is not on this machine.
    pub insecure: bool,
}

/// A tree in anything that speaks the S3 protocol.
///
/// Requests are signed by the `object_store` crate and sent by our own [`HttpClient`]; retries are ours, too.
pub struct S3Tree {
    store: AmazonS3,
    client: HttpClient,
    meter: Arc<Meter>,
    bucket: String,
    prefix: TreePath,
}

impl S3Tree {
    /// The tree under `prefix` in `bucket`. Makes no request.
    ///
    /// # Errors
    ///
    /// [`Error::Address`] when the options name no place that can be asked.
    pub fn new(
        client: HttpClient,
        bucket: &str,
        prefix: TreePath,
        options: &S3Options,
    ) -> Result<Self, Error> {
        let place = format!("s3://{bucket}");
        let refused = |reason: String| Error::Address { place: place.clone(), reason };
        let mut builder = AmazonS3Builder::new();
        for (name, value) in &options.environment {
            if let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
                builder = builder.with_config(key, value);
            }
        }
        let endpoint = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint]
            .iter()
            .find_map(|key| builder.get_config_value(key));
        if let Some(endpoint) = endpoint {
            let url: Url =
                endpoint.parse().map_err(|error| refused(format!("the endpoint is no address: {error}")))?;
            if url.scheme() == "http" && !is_loopback(&url) && !options.insecure {
                return Err(refused("the endpoint speaks plain HTTP, which --insecure allows".into()));
            }
        }
        let meter = Arc::<Meter>::default();
        let connector = Connector { client: client.clone(), meter: Arc::clone(&meter) };
        let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        let store = builder
            .with_bucket_name(bucket)
            .with_http_connector(connector)
            .with_retry(retry)
            .with_skip_signature(options.anonymous)
            .build()
            // The words of the error could repeat what is in the environment.
            .map_err(|_| refused("the AWS_… settings do not make a store that can be asked".into()))?;
        Ok(Self { store, client, meter, bucket: bucket.to_owned(), prefix })
    }

    /// The key of a path, the empty one for the root of a whole bucket; `None` when nothing can lie there.
    fn key(&self, path: &TreePath) -> Option<Path> {
        let parts: Vec<&str> = self.prefix.components().chain(path.components()).collect();
        s3_keys::of_path(&parts.join("/"))
    }

    fn ask(&self, path: &TreePath, what: &str, bytes: u64) -> Ask {
        let place = format!("{}/{path}", self.describe());
        Ask { place: place.trim_end_matches('/').to_owned(), what: what.to_owned(), bytes }
    }

    async fn head(&self, key: &Path, ask: &Ask) -> Result<Option<FileVersion>, Error> {
        with_retries(self.client.policy(), &self.meter, ask, || async {
            match self.store.head(key).await {
                Ok(meta) => Ok(Some(version(&meta))),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(failed(ask, error)),
            }
        })
        .await
    }

    /// Whether anything lies under `key/`.
    async fn has_entries(&self, key: &Path, ask: &Ask) -> Result<bool, Error> {
        let options = PaginatedListOptions { max_keys: Some(1), ..PaginatedListOptions::default() };
        let page = self.page(key, &options, ask).await?;
        // A page that is not the last one has more to come, even if it is empty itself.
        Ok(!page.result.objects.is_empty() || page.page_token.is_some())
    }

    /// One page of what lies under `key/`.
    async fn page(
        &self,
        key: &Path,
        options: &PaginatedListOptions,
        ask: &Ask,
    ) -> Result<PaginatedListResult, Error> {
        let prefix = (!key.is_root()).then(|| format!("{key}/"));
        with_retries(self.client.policy(), &self.meter, ask, || async {
            let page = self.store.list_paginated(prefix.as_deref(), options.clone()).await;
            page.map_err(|error| failed(ask, error))
        })
        .await
    }

    /// Lists a directory of no more than `max` entries.
    async fn list_up_to(&self, directory: &TreePath, max: usize) -> Result<Vec<TreeEntry>, Error> {
        let ask = self.ask(directory, "listing", 0);
        let key = self.key(directory).ok_or_else(|| ask.status(404, None))?;
        let delimiter = Some(DELIMITER.into());
        let mut options = PaginatedListOptions { delimiter, ..PaginatedListOptions::default() };
        let (mut entries, mut come) = (BTreeMap::new(), 0_usize);
        loop {
            let page = self.page(&key, &options, &ask).await?;
            let found = page.result;
            // A page without anything counts as well: no server can go on for ever.
            come =
                come.saturating_add(found.objects.len().saturating_add(found.common_prefixes.len()).max(1));
            if come > max {
                return Err(Error::TooLarge { place: ask.place, range: ask.what, max: max as u64 });
            }
            for meta in &found.objects {
                // An object beside a directory of its name cannot be shown; the directory has more in it.
                if let Some(name) = name_in(&meta.location, &key) {
                    entries.entry(name).or_insert_with(|| Listed::Version(version(meta)));
                }
            }
            for name in found.common_prefixes.iter().filter_map(|path| name_in(path, &key)) {
                entries.insert(name, Listed::Directory);
            }
            options.page_token = page.page_token;
            if options.page_token.is_none() {
                return Ok(entries.into_iter().map(|(name, node)| TreeEntry { name, node }).collect());
            }
        }
    }

    /// One attempt to read what is still missing.
    async fn attempt(
        &self,
        key: &Path,
        version: &FileVersion,
        ask: &Ask,
        delivery: &Mutex<(BlobRange, &mut (dyn FnMut(Bytes) + Send))>,
    ) -> Result<(), Error> {
        let mut delivery = delivery.lock().await;
        let rest = delivery.0;
        let options = GetOptions {
            range: Some(GetRange::Bounded(rest.start()..rest.end())),
            if_match: version.etag.clone(),
            ..GetOptions::default()
        };
        let answer = self.store.get_opts(key, options).await.map_err(|error| failed(ask, error))?;
        if self::version(&answer.meta) != *version {
            return Err(Error::Changed { place: ask.place.clone(), range: ask.what.clone() });
        }
        let mut stream = answer.into_stream();
        let patience = self.client.policy().read_timeout;
        while let Some(piece) = timeout(patience, stream.next()).await.map_err(|_| ask.timeout(patience))? {
            let mut piece = piece.map_err(|error| failed(ask, error))?;
            self.meter.count_bytes(piece.len());
            let is_cut = delivery.0 == rest && cut(&mut piece, ask)?;
            piece.truncate(usize::try_from(delivery.0.len()).unwrap_or(usize::MAX));
            if piece.is_empty() {
                break;
            }
            delivery.0 =
                BlobRange::at(delivery.0.start() + piece.len() as u64, delivery.0.len() - piece.len() as u64)
                    .unwrap_or(delivery.0);
            (delivery.1)(piece);
            if is_cut {
                break;
            }
        }
        match delivery.0.len() {
            0 => Ok(()),
            missing => Err(ask.length(rest.len(), rest.len() - missing)),
        }
    }
}

#[async_trait]
impl TreeStore for S3Tree {
    fn describe(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.prefix).trim_end_matches('/').to_owned()
    }

    async fn list(&self, directory: &TreePath) -> Result<Vec<TreeEntry>, Error> {
        self.list_up_to(directory, ENTRIES_MAX).await
    }

    async fn look_up(&self, path: &TreePath) -> Result<Option<TreeNode>, Error> {
        if path.is_root() {
            return Ok(Some(TreeNode::Directory));
        }
        let ask = self.ask(path, "attributes", 0);
        let Some(key) = self.key(path) else { return Ok(None) };
        // Both, since a listing shows a directory where there are both. At once: each is a way to the server and back.
        let (file, is_directory) = join(self.head(&key, &ask), self.has_entries(&key, &ask)).await;
        match (file, is_directory) {
            (_, Ok(true)) => Ok(Some(TreeNode::Directory)),
            (Ok(Some(version)), Ok(false)) => Ok(Some(TreeNode::File(version))),
            // Who may read and not list has no listing to agree with, and one that fails for now is no reason to hide it.
            (Ok(Some(version)), Err(error)) if error.is_transient() || is_forbidden(&error) => {
                tracing::debug!(place = ask.place, %error, "found, but not listed");
                Ok(Some(TreeNode::File(version)))
            }
            (Ok(None), Ok(false)) => Ok(None),
            (Err(error), _) | (_, Err(error)) => Err(error),
        }
    }

    async fn confirm(&self, path: &TreePath) -> Result<Option<TreeNode>, Error> {
        let Some(key) = self.key(path).filter(|key| !key.is_root()) else { return self.look_up(path).await };
        let found = self.head(&key, &self.ask(path, "attributes", 0)).await?;
        Ok(found.map(TreeNode::File))
    }

    async fn read(
        &self,
        path: &TreePath,
        range: BlobRange,
        version: &FileVersion,
        sink: &mut (dyn FnMut(Bytes) + Send),
    ) -> Result<(), Error> {
        let ask = self.ask(path, &range.to_string(), range.len());
        if range.end() > version.size {
            return Err(Error::OutOfBounds { place: ask.place, range, len: version.size });
        }
        let key = self.key(path).filter(|key| !key.is_root()).ok_or_else(|| ask.status(404, None))?;
        if range.is_empty() {
            return Ok(());
        }
        let delivery = Mutex::new((range, sink));
        with_retries(self.client.policy(), &self.meter, &ask, || self.attempt(&key, version, &ask, &delivery))
            .await
    }

    fn meter(&self) -> &Meter {
        &self.meter
    }
}

/// The last component of a key that lies directly in `directory`.
fn name_in(key: &Path, directory: &Path) -> Option<String> {
    let key = key.as_ref();
    let rest = match directory.as_ref() {
        "" => key,
        directory => key.strip_prefix(directory)?.strip_prefix(DELIMITER)?,
    };
    super::path::is_name(rest).then(|| rest.to_owned())
}

fn is_forbidden(error: &Error) -> bool {
    matches!(error, Error::Status { status: 403, .. })
}

fn version(meta: &ObjectMeta) -> FileVersion {
    let seconds = u64::try_from(meta.last_modified.timestamp()).unwrap_or(0);
    let modified = SystemTime::UNIX_EPOCH.checked_add(std::time::Duration::from_secs(seconds));
    // An entity tag of S3 is of the content or of the write. Without one there is no telling: the answer's date is not shown.
    let is_settled = meta.e_tag.as_deref().is_some_and(|etag| !is_weak(etag));
    if !is_settled {
        tracing::debug!(key = %meta.location, why = "no strong entity tag", "version not settled: not cached");
    }
    FileVersion { size: meta.size, etag: meta.e_tag.clone(), modified, is_settled }
}

#[cfg(test)]
mod tests {
    use larder_testkit::OddServer;

    use super::*;
    use crate::Policy;

    #[tokio::test]
    async fn p5_a_listing_that_does_not_end_is_refused() {
        let server = OddServer::start();
        let key = "<Contents><Key>k</Key><LastModified>2026-01-01T00:00:00Z</LastModified><Size>1</Size></Contents>";
        let token = "<NextContinuationToken>t</NextContinuationToken>";
        let page = |keys| format!("<ListBucketResult>{}{token}</ListBucketResult>", key.repeat(keys));
        server.page("b?delimiter=%2F&list-type=2", &page(10));
        let environment =
            vec![("AWS_ENDPOINT_URL".to_owned(), server.url().trim_end_matches('/').to_owned())];
        let options = S3Options { environment, anonymous: true, insecure: false };
        let client = HttpClient::new(Policy::default()).expect("a client");
        let tree = S3Tree::new(client, "b", TreePath::root(), &options).expect("a tree");
        for (keys, requests) in [(10, 3), (0, 17)] {
            let asked = server.requests().len();
            server.page("b?continuation-token=t&delimiter=%2F&list-type=2", &page(keys));
            let endless = tree.list_up_to(&TreePath::root(), 25).await.map(drop);
            assert!(matches!(endless, Err(Error::TooLarge { max: 25, .. })), "{endless:?}");
            assert_eq!(server.requests().len() - asked, requests, "not a page more than it takes");
        }
    }
}
