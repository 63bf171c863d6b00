//! From an address to a store that can be asked.

use std::sync::Arc;
use std::time::Duration;

use larder_remote::HttpClient;
use larder_remote::tree::{HttpTree, S3Options, S3Tree, TreeAddress, TreeStore};
use serde::{Deserialize, Serialize};

use crate::errors::{Kind, told};

/// How a tree is mounted.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TreeOptions {
    /// Ask an object store without credentials.
    #[serde(default)]
    pub anonymous: bool,
    /// For how long a version may be taken for the current one without asking, in milliseconds.
    #[serde(default)]
    pub revalidate_ms: u64,
}

impl TreeOptions {
    /// For how long a version may be taken for the current one without asking.
    pub fn revalidate(&self) -> Duration {
        Duration::from_millis(self.revalidate_ms)
    }
}

/// The store that `address` names. Asks no server anything.
///
/// # Errors
///
/// When it would be spoken to in the clear without `insecure`, or cannot be asked.
pub fn connect(
    address: &TreeAddress,
    options: &TreeOptions,
    insecure: bool,
    http: &HttpClient,
) -> anyhow::Result<Arc<dyn TreeStore>> {
    if address.is_in_the_clear() && !insecure {
        return Err(told(
            Kind::BadRequest,
            format!("{address}: plain HTTP lets anybody on the way change what is read"),
            "use https, or allow it with --insecure",
        ));
    }
    Ok(match address {
        TreeAddress::Http(url) => Arc::new(HttpTree::new(http.clone(), url.clone())?),
        TreeAddress::S3 { bucket, prefix } => {
            let named = |name: &str| name.starts_with("AWS_");
            let environment = std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
            let environment = environment.filter(|(name, _)| named(name)).collect();
            let options = S3Options { environment, anonymous: options.anonymous, insecure };
            Arc::new(S3Tree::new(http.clone(), bucket, prefix.clone(), &options)?)
        }
    })
}
