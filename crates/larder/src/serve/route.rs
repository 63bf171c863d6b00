//! [`Route`]: what a request path names.

use super::failure::Failure;
use super::layout::Sha256;

/// What a path under `/v2/` names (distribution spec, "Endpoints").
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Route {
    /// `/v2/`: is this a registry?
    Base,
    /// `/v2/<name>/manifests/<tag>`.
    TaggedManifest(String),
    /// `/v2/<name>/manifests/<digest>`.
    Manifest(Sha256),
    /// `/v2/<name>/blobs/<digest>`.
    Blob(Sha256),
    /// `/v2/<name>/tags/list`, with the name.
    Tags(String),
}

impl Route {
    /// Parses a path; nothing in it is decoded, since no valid name needs it.
    pub(super) fn parse(path: &str) -> Result<Self, Failure> {
        if path == "/v2" || path == "/v2/" {
            return Ok(Self::Base);
        }
        let rest = path.strip_prefix("/v2/").ok_or(Failure::NotFound)?;
        let (rest, last) = rest.rsplit_once('/').ok_or(Failure::NotFound)?;
        let (name, kind) = rest.rsplit_once('/').ok_or(Failure::NotFound)?;
        if !matches!(kind, "manifests" | "blobs" | "tags") {
            return Err(Failure::NotFound);
        }
        if !is_name(name) {
            return Err(Failure::NameInvalid);
        }
        match kind {
            "blobs" => Ok(Self::Blob(Sha256::parse(last).ok_or(Failure::DigestInvalid)?)),
            "manifests" if last.contains(':') => {
                Ok(Self::Manifest(Sha256::parse(last).ok_or(Failure::DigestInvalid)?))
            }
            "manifests" if is_tag(last) => Ok(Self::TaggedManifest(last.to_owned())),
            "manifests" => Err(Failure::TagInvalid),
            _ if last == "list" => Ok(Self::Tags(name.to_owned())),
            _ => Err(Failure::NotFound),
        }
    }
}

const NAME_BYTES_MAX: usize = 255;

/// Whether `name` is a repository name of the distribution spec.
fn is_name(name: &str) -> bool {
    name.len() <= NAME_BYTES_MAX && name.split('/').all(is_component)
}

/// Runs of `[a-z0-9]`, with one separator between two: `.`, `_`, `__` or any number of `-`.
fn is_component(component: &str) -> bool {
    let bytes = component.as_bytes();
    let is_word = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends_well = bytes.first().is_some_and(is_word) && bytes.last().is_some_and(is_word);
    ends_well
        && bytes.split(is_word).all(|separator| {
            matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-')
        })
}

/// Whether `tag` is a tag of the distribution spec: a word character, then up to 127 of `[A-Za-z0-9_.-]`.
fn is_tag(tag: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= 128
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|b| is_word(b) || b == b'.' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_distribution_spec_are_understood() {
        let hex = "ab".repeat(32);
        let digest = Sha256::parse(&format!("sha256:{hex}")).expect("a digest");
        for (path, expected) in [
            ("/v2/".to_owned(), Route::Base),
            ("/v2/a/manifests/latest".to_owned(), Route::TaggedManifest("latest".to_owned())),
            ("/v2/a/b-c/d__e/manifests/v1.0_x".to_owned(), Route::TaggedManifest("v1.0_x".to_owned())),
            (format!("/v2/a/manifests/sha256:{hex}"), Route::Manifest(digest.clone())),
            (format!("/v2/blobs/blobs/sha256:{hex}"), Route::Blob(digest.clone())),
            ("/v2/a/tags/list".to_owned(), Route::Tags("a".to_owned())),
        ] {
            assert_eq!(Route::parse(&path), Ok(expected), "{path}");
        }
    }

    #[test]
    fn bad_names_and_digests_are_refused_before_anything_is_opened() {
        let hex = "ab".repeat(32);
        let upper = "AB".repeat(32);
        for (path, expected) in [
            (format!("/v2/A/blobs/sha256:{hex}"), Failure::NameInvalid),
            (format!("/v2/../blobs/sha256:{hex}"), Failure::NameInvalid),
            (format!("/v2/a//b/blobs/sha256:{hex}"), Failure::NameInvalid),
            (format!("/v2/a%2fb/blobs/sha256:{hex}"), Failure::NameInvalid),
            (format!("/v2/a___b/blobs/sha256:{hex}"), Failure::NameInvalid),
            (format!("/v2/-a/blobs/sha256:{hex}"), Failure::NameInvalid),
            (format!("/v2/{}/blobs/sha256:{hex}", "a".repeat(256)), Failure::NameInvalid),
            (format!("/v2/a/blobs/sha256:{upper}"), Failure::DigestInvalid),
            ("/v2/a/blobs/..".to_owned(), Failure::DigestInvalid),
            ("/v2/a/blobs/sha256:../../../../etc/passwd".to_owned(), Failure::NotFound),
            ("/v2/a/blobs/sha256:".to_owned(), Failure::DigestInvalid),
            ("/v2/a/blobs/md5:ab".to_owned(), Failure::DigestInvalid),
            ("/v2/a/manifests/.hidden".to_owned(), Failure::TagInvalid),
            ("/v2/a/uploads/x".to_owned(), Failure::NotFound),
            ("/v1/".to_owned(), Failure::NotFound),
            ("/".to_owned(), Failure::NotFound),
        ] {
            assert_eq!(Route::parse(&path), Err(expected), "{path}");
        }
    }
}
