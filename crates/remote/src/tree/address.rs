//! [`TreeAddress`]: what `larder mount` takes for a tree.

use std::fmt;
use std::str::FromStr;

use reqwest::Url;

use super::TreePath;
use crate::Error;
use crate::ask::place;

/// Where a tree lies.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TreeAddress {
    /// `https://HOST/path/` or `http://HOST/path/`: ends with `/`, without query and fragment.
    Http(Url),
    /// `s3://BUCKET/PREFIX`.
    S3 {
        /// The bucket.
        bucket: String,
        /// What every key begins with, without a `/` at either end.
        prefix: TreePath,
    },
}

impl TreeAddress {
    /// Whether `text` begins like the address of a tree, sound or not.
    pub fn is_meant(text: &str) -> bool {
        ["http://", "https://", "s3://"].iter().any(|scheme| text.starts_with(scheme))
    }

    /// Whether its bytes would cross a network in the clear.
    pub fn is_in_the_clear(&self) -> bool {
        match self {
            Self::Http(url) => url.scheme() == "http" && !is_loopback(url),
            Self::S3 { .. } => false,
        }
    }
}

/// Whether an address leads to this machine.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

impl FromStr for TreeAddress {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refused = |place: String, reason: &str| Error::Address { place, reason: reason.to_owned() };
        if let Some(rest) = text.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            let sound = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            if bucket.is_empty() || bucket.len() > 255 || !bucket.bytes().all(sound) {
                return Err(refused(text.to_owned(), "a bucket has letters, digits, '-', '.' and '_'"));
            }
            let prefix = TreePath::parse(prefix.trim_end_matches('/'));
            let prefix =
                prefix.ok_or_else(|| refused(text.to_owned(), "this prefix cannot be a directory"))?;
            return Ok(Self::S3 { bucket: bucket.to_owned(), prefix });
        }
        let url = crate::client::parse_url(text)?;
        if url.query().is_some() || url.fragment().is_some() {
            return Err(refused(place(&url), "the address of a tree has neither query nor fragment"));
        }
        if !url.path().ends_with('/') {
            return Err(refused(place(&url), "the address of a directory ends with '/'"));
        }
        Ok(Self::Http(url))
    }
}

impl fmt::Display for TreeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(url) => f.write_str(url.as_str()),
            Self::S3 { bucket, prefix } if prefix.is_root() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sound_addresses_are_read_and_printed_the_same() {
        for (text, printed) in [
            ("https://h.example/models/", "https://h.example/models/"),
            ("http://127.0.0.1:8080/", "http://127.0.0.1:8080/"),
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/", "s3://bucket"),
            ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ] {
            assert_eq!(text.parse::<TreeAddress>().expect(text).to_string(), printed);
        }
    }

    #[test]
    fn unsound_addresses_are_refused_without_telling_a_secret() {
        for text in [
            "https://h.example/file",
            "https://h.example/dir/?token=secret",
            "https://me:secret@h.example/dir/",
            "ftp://h.example/",
            "s3://",
            "s3:///a",
            "s3://b/a/../c",
            "s3://b//c",
            "s3://b u/c",
            "",
        ] {
            let error = text.parse::<TreeAddress>().expect_err(text);
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn plain_http_is_in_the_clear_except_on_the_loopback() {
        for (text, clear) in [
            ("http://h.example/", true),
            ("https://h.example/", false),
            ("http://localhost:1/", false),
            ("http://127.9.9.9/", false),
            ("http://[::1]/", false),
            ("http://localhost.example/", true),
        ] {
            assert_eq!(text.parse::<TreeAddress>().expect(text).is_in_the_clear(), clear, "{text}");
        }
    }
}
