//! [`Reference`]: the name of an image, as a user types it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use oci_spec::image::Digest;

use crate::Error;

/// Where an image lies and which one of those there it is.
///
/// # Examples
///
/// ```
/// use larder_image::{Reference, Version};
///
/// let image: Reference = "oci:/srv/images:v1".parse()?;
/// assert_eq!(image.version(), &Version::Tag("v1".to_owned()));
/// let image: Reference = "registry.example:5000/tools/python".parse()?;
/// assert_eq!(image.version(), &Version::Tag("latest".to_owned()));
/// # Ok::<(), larder_image::Error>(())
/// ```
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Reference {
    /// `oci:DIR[:TAG|@DIGEST]`: an OCI image layout directory.
    Layout {
        /// The directory.
        dir: PathBuf,
        /// Which image of the directory.
        version: Version,
    },
    /// `HOST[:PORT]/REPOSITORY[:TAG|@DIGEST]`: a repository of a registry.
    Registry {
        /// Host name or address, with the port if one was given.
        host: String,
        /// Name of the repository, without a slash at either end.
        repository: String,
        /// Which image of the repository.
        version: Version,
    },
}

/// Which of the images in one place.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Version {
    /// The one that a tag points to.
    Tag(String),
    /// The one whose manifest has this SHA-256.
    Digest(Digest),
    /// The only one there is.
    Only,
}

impl Reference {
    /// Which image of the place.
    pub fn version(&self) -> &Version {
        match self {
            Self::Layout { version, .. } | Self::Registry { version, .. } => version,
        }
    }
}

impl Version {
    /// Reads what a tag may be: 1 to 128 of `[A-Za-z0-9_.-]`, not beginning with `.` or `-`.
    ///
    /// # Errors
    ///
    /// [`Error::Reference`].
    pub fn tag(text: &str) -> Result<Self, Error> {
        if is_tag(text) {
            Ok(Self::Tag(text.to_owned()))
        } else {
            Err(refused(
                text,
                "a tag is 1 to 128 letters, digits, '_', '.' and '-', not beginning with '.' or '-'",
            ))
        }
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(given: &str) -> Result<Self, Error> {
        match given.strip_prefix("oci:") {
            Some(place) => layout(given, place),
            None => registry(given),
        }
    }
}

fn layout(given: &str, place: &str) -> Result<Reference, Error> {
    // A directory may have '@' and ':' in its name, a version never has a '/'.
    let split = |at| place.rsplit_once(at).filter(|(_, version)| !version.contains('/'));
    let (dir, version) = match (split('@'), split(':')) {
        (Some((dir, digest)), _) => (dir, Version::Digest(sha256_digest(given, digest)?)),
        (None, Some((dir, tag))) => (dir, Version::tag(tag)?),
        (None, None) => (place, Version::Only),
    };
    if dir.is_empty() {
        return Err(refused(given, "the directory is missing"));
    }
    Ok(Reference::Layout { dir: PathBuf::from(dir), version })
}

fn registry(given: &str) -> Result<Reference, Error> {
    let Some((host, rest)) = given.split_once('/') else {
        return Err(refused(given, "neither oci:DIR[:TAG] nor HOST[:PORT]/REPOSITORY[:TAG|@DIGEST]"));
    };
    if !is_host(host) {
        return Err(refused(
            given,
            "what stands before the first '/' is no registry: a host has a '.' or a port",
        ));
    }
    let (repository, version) = if let Some((name, digest)) = rest.split_once('@') {
        // With both given, the digest decides and the tag is decoration.
        let repository = name.split_once(':').map_or(name, |(repository, _)| repository);
        (repository, Version::Digest(sha256_digest(given, digest)?))
    } else if let Some((repository, tag)) = rest.split_once(':') {
        (repository, Version::tag(tag)?)
    } else {
        (rest, Version::Tag("latest".to_owned()))
    };
    if !is_repository(repository) {
        return Err(refused(
            given,
            "a repository name has lower-case letters and digits, separated by '/', '.', '_' and '-'",
        ));
    }
    Ok(Reference::Registry { host: host.to_owned(), repository: repository.to_owned(), version })
}

fn sha256_digest(given: &str, text: &str) -> Result<Digest, Error> {
    let digest: Digest =
        text.parse().map_err(|_| refused(given, "what follows '@' is no digest: sha256 and 64 digits"))?;
    crate::digest::require_sha256(&digest, given)?;
    Ok(digest)
}

fn refused(given: &str, reason: &'static str) -> Error {
    Error::Reference { given: given.to_owned(), reason }
}

fn is_tag(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    (1..=128).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with(['.', '-'])
}

fn is_host(text: &str) -> bool {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !text.ends_with(']') => (name, Some(port)),
        _ => (text, None),
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    let address =
        |inner: &str| inner.bytes().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'));
    let bracketed = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let name_is_good = match bracketed {
        Some(inner) => !inner.is_empty() && address(inner),
        None => !name.is_empty() && name.bytes().all(plain),
    };
    let port_is_good = port.is_none_or(|port| port.parse::<u16>().is_ok());
    let is_no_plain_word = port.is_some() || bracketed.is_some() || name.contains('.') || name == "localhost";
    name_is_good && port_is_good && is_no_plain_word
}

fn is_repository(text: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let component = |part: &str| {
        let bytes = part.as_bytes();
        bytes.first().is_some_and(|&byte| alphanumeric(byte))
            && bytes.last().is_some_and(|&byte| alphanumeric(byte))
            && bytes.iter().all(|&byte| alphanumeric(byte) || matches!(byte, b'.' | b'_' | b'-'))
    };
    text.len() <= 255 && text.split('/').all(component)
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layout { dir, .. } => write!(f, "oci:{}", dir.display())?,
            Self::Registry { host, repository, .. } => write!(f, "{host}/{repository}")?,
        }
        match self.version() {
            Version::Tag(tag) => write!(f, ":{tag}"),
            Version::Digest(digest) => write!(f, "@{digest}"),
            Version::Only => Ok(()),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => write!(f, "{digest}"),
            Self::Only => f.write_str("the only image"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn what_is_read_prints_as_it_was_typed() {
        for given in [
            "oci:/srv/images",
            "oci:images:v1.2",
            "oci:/srv/a:b/images",
            "oci:/srv/me@host/images:v1",
            "localhost/tools:latest",
            "127.0.0.1:5000/tools/python:3.13",
            "[::1]:5000/tools:v1",
            "registry.example/a/b_c/d-e.f:_x",
        ] {
            let read: Reference = given.parse().unwrap_or_else(|error| panic!("{given}: {error}"));
            assert_eq!(read.to_string(), given);
        }
        for place in ["oci:/srv/images", "registry.example/tools"] {
            let given = format!("{place}@{DIGEST}");
            let read: Reference = given.parse().expect("a digest is a version");
            assert!(matches!(read.version(), Version::Digest(_)), "{given}");
            assert_eq!(read.to_string(), given);
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_prints_as_what_means_the_same(text in "(oci:)?[a-z.:/@0-9-]{0,30}(@sha256:[0-9a-f]{64})?") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse::<Reference>().ok(), Some(reference));
            }
        }
    }

    #[test]
    fn a_digest_wins_over_a_tag() {
        let read: Reference = format!("registry.example/tools:v1@{DIGEST}").parse().expect("both may stand");
        assert_eq!(read.to_string(), format!("registry.example/tools@{DIGEST}"));
    }

    #[test]
    fn a_registry_without_a_tag_means_latest() {
        let read: Reference = "localhost:5000/tools".parse().expect("a short name");
        assert_eq!(read.version(), &Version::Tag("latest".to_owned()));
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for given in [
            "",
            "python",
            "library/python",
            "oci:",
            "oci::v1",
            "oci:dir:",
            "oci:dir:-x",
            "localhost/",
            "localhost/UPPER",
            "localhost/a//b",
            "localhost/../etc",
            "localhost/a:b:c",
            "localhost:port/a",
            "localhost:70000/a",
            "user@host.example/a",
            "registry.example/a@sha256:12",
            "registry.example/a@md5:12",
            "registry.example/a?b",
        ] {
            assert!(given.parse::<Reference>().is_err(), "{given} was taken");
        }
    }
}
