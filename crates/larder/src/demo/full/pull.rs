//! Manifest, configuration, then every layer whole.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use larder_image::{Digest, LoadedImage};

use super::fetch::Connection;
use crate::demo::image::TAG;
use crate::output::progress::Progress;
use crate::runtime;

/// Layers fetched side by side: the default of container engines.
const SIDE_BY_SIDE: usize = 3;

/// Where [`pull`] leaves the blob `digest`.
pub(super) fn blob_path(directory: &Path, digest: &Digest) -> PathBuf {
    directory.join(digest.digest())
}

/// Fetches the image into `directory`, each blob as a file.
///
/// # Errors
///
/// When a blob cannot be fetched, or its bytes are not what its digest says.
pub(super) fn pull(address: SocketAddr, image: &LoadedImage, directory: &Path) -> anyhow::Result<()> {
    let progress = Progress::bytes("fetching everything", Some(image.image_bytes));
    let sum = Cell::new(0_u64);
    let came = |bytes: usize| {
        sum.set(sum.get().saturating_add(u64::try_from(bytes).unwrap_or(0)));
        progress.set(sum.get());
    };
    let layers: BTreeMap<&str, &Digest> = image
        .layers()
        .map(|layer| layer.descriptor.digest())
        .map(|digest| (digest.digest(), digest))
        .collect();
    let config = config_digest(image)?;
    runtime::for_command()?.block_on(async {
        let mut connection = Connection::open(address).await?;
        let manifest = directory.join("manifest");
        connection
            .fetch(&format!("/v2/demo/manifests/{TAG}"), &manifest, &image.manifest_digest, &|_| {})
            .await?;
        let path = format!("/v2/demo/blobs/{config}");
        connection.fetch(&path, &directory.join("config"), &config, &|_| {}).await?;
        let fetches = layers.into_values().map(|digest| layer(address, digest, directory, &came));
        stream::iter(fetches).buffer_unordered(SIDE_BY_SIDE).try_collect::<()>().await
    })
}

async fn layer(
    address: SocketAddr,
    digest: &Digest,
    directory: &Path,
    came: &dyn Fn(usize),
) -> anyhow::Result<()> {
    let mut connection = Connection::open(address).await?;
    connection.fetch(&format!("/v2/demo/blobs/{digest}"), &blob_path(directory, digest), digest, came).await
}

fn config_digest(image: &LoadedImage) -> anyhow::Result<Digest> {
    let manifest: serde_json::Value = serde_json::from_slice(&image.manifest)?;
    let digest = manifest["config"]["digest"].as_str().context("the manifest names no configuration")?;
    Ok(digest.parse()?)
}
