//! [`S3Tree`]: a tree in anything that speaks the S3 protocol.

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt as _, RetryConfig};
use reqwest::Url;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::address::is_loopback;
use super::connector::{Connector, failed};
use super::version::is_weak;
use super::{ENTRIES_MAX, FileVersion, Listed, TreeEntry, TreeNode, TreePath, TreeStore};
use crate::ask::Ask;
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

    /// The key of a path; `None` for the root of a whole bucket, which has none.
    fn key(&self, path: &TreePath) -> Option<Path> {
        let parts: Vec<&str> = self.prefix.components().chain(path.components()).collect();
        if parts.is_empty() { None } else { Path::parse(parts.join("/")).ok() }
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
    async fn has_entries(&self, key: Option<&Path>, ask: &Ask) -> Result<bool, Error> {
        with_retries(self.client.policy(), &self.meter, ask, || async {
            match self.store.list(key).next().await {
                None => Ok(false),
                Some(Ok(_)) => Ok(true),
                Some(Err(error)) => Err(failed(ask, error)),
            }
        })
        .await
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
            piece.truncate(usize::try_from(delivery.0.len()).unwrap_or(usize::MAX));
            if piece.is_empty() {
                break;
            }
            delivery.0 =
                BlobRange::at(delivery.0.start() + piece.len() as u64, delivery.0.len() - piece.len() as u64)
                    .unwrap_or(delivery.0);
            (delivery.1)(piece);
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
        let ask = self.ask(directory, "listing", 0);
        let key = self.key(directory);
        // Page by page below, all of it here: a directory is shown as it was at one time.
        let listed = with_retries(self.client.policy(), &self.meter, &ask, || async {
            self.store.list_with_delimiter(key.as_ref()).await.map_err(|error| failed(&ask, error))
        })
        .await?;
        if listed.objects.len().saturating_add(listed.common_prefixes.len()) > ENTRIES_MAX {
            let (place, range) = (ask.place.clone(), ask.what.clone());
            return Err(Error::TooLarge { place, range, max: ENTRIES_MAX as u64 });
        }
        let mut entries: Vec<TreeEntry> = Vec::new();
        let directories = listed.common_prefixes.iter().filter_map(|path| name_in(path, key.as_ref()));
        entries.extend(directories.map(|name| TreeEntry { name, node: Listed::Directory }));
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let known = entries.len();
        for meta in &listed.objects {
            let Some(name) = name_in(&meta.location, key.as_ref()) else { continue };
            // An object beside a directory of its name cannot be shown; the directory has more in it.
            if entries[..known].binary_search_by(|entry| entry.name.cmp(&name)).is_err() {
                entries.push(TreeEntry { name, node: Listed::Version(version(meta)) });
            }
        }
        Ok(entries)
    }

    async fn look_up(&self, path: &TreePath) -> Result<Option<TreeNode>, Error> {
        let ask = self.ask(path, "attributes", 0);
        let key = self.key(path);
        let Some(file) = key.as_ref().filter(|_| !path.is_root()) else {
            return Ok(Some(TreeNode::Directory));
        };
        if let Some(version) = self.head(file, &ask).await? {
            return Ok(Some(TreeNode::File(version)));
        }
        Ok(self.has_entries(key.as_ref(), &ask).await?.then_some(TreeNode::Directory))
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
        let Some(key) = self.key(path).filter(|_| !range.is_empty()) else { return Ok(()) };
        let delivery = Mutex::new((range, sink));
        with_retries(self.client.policy(), &self.meter, &ask, || self.attempt(&key, version, &ask, &delivery))
            .await
    }

    fn meter(&self) -> &Meter {
        &self.meter
    }
}

/// The last component of a key that lies directly in `directory`.
fn name_in(key: &Path, directory: Option<&Path>) -> Option<String> {
    let key = key.as_ref();
    let rest = match directory {
        Some(directory) => key.strip_prefix(directory.as_ref())?.strip_prefix('/')?,
        None => key,
    };
    super::path::is_name(rest).then(|| rest.to_owned())
}

fn version(meta: &ObjectMeta) -> FileVersion {
    let seconds = u64::try_from(meta.last_modified.timestamp()).unwrap_or(0);
    let modified = SystemTime::UNIX_EPOCH.checked_add(std::time::Duration::from_secs(seconds));
    // An entity tag of S3 is of the content or of the write. Without one there is no telling: the answer's date is not shown.
    let is_settled = meta.e_tag.as_deref().is_some_and(|etag| !is_weak(etag));
    FileVersion { size: meta.size, etag: meta.e_tag.clone(), modified, is_settled }
}
