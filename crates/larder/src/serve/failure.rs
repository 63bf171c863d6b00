//! [`Failure`]: the errors of the distribution spec.

use http::StatusCode;
use serde::Serialize;

/// Why a request gets no content.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Failure {
    /// The path is none of the API.
    NotFound,
    /// The repository name is not well formed.
    NameInvalid,
    /// The digest is not well formed, or not SHA-256.
    DigestInvalid,
    /// The tag is not well formed.
    TagInvalid,
    /// No manifest of this tag or digest.
    ManifestUnknown,
    /// No blob of this digest.
    BlobUnknown,
    /// The method is none of the read side.
    Method,
    /// The range lies outside the blob of `len` bytes.
    Range {
        /// Length of the blob.
        len: u64,
    },
    /// The layout directory could not be read.
    Layout,
}

#[derive(Serialize)]
struct Body {
    errors: [Item; 1],
}

#[derive(Serialize)]
struct Item {
    code: &'static str,
    message: &'static str,
}

impl Failure {
    /// The status of the response.
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::NotFound | Self::ManifestUnknown | Self::BlobUnknown => StatusCode::NOT_FOUND,
            Self::NameInvalid | Self::DigestInvalid | Self::TagInvalid => StatusCode::BAD_REQUEST,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Range { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::Layout => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The body of the response, in JSON (distribution spec, "Error Codes").
    pub(super) fn body(self) -> Vec<u8> {
        let (code, message) = match self {
            Self::NotFound => ("UNSUPPORTED", "there is nothing at this path"),
            Self::NameInvalid => ("NAME_INVALID", "the repository name is not valid"),
            Self::DigestInvalid => {
                ("DIGEST_INVALID", "the digest is not sha256 and 64 lower-case hex digits")
            }
            Self::TagInvalid => ("MANIFEST_UNKNOWN", "the tag is not valid"),
            Self::ManifestUnknown => ("MANIFEST_UNKNOWN", "no manifest of this tag or digest"),
            Self::BlobUnknown => ("BLOB_UNKNOWN", "no blob of this digest"),
            Self::Method => ("UNSUPPORTED", "this registry can only be read"),
            Self::Range { .. } => ("BLOB_UPLOAD_INVALID", "the range lies outside the blob"),
            Self::Layout => ("UNKNOWN", "the image layout could not be read"),
        };
        serde_json::to_vec(&Body { errors: [Item { code, message }] }).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_the_shape_of_the_distribution_spec() {
        let body: serde_json::Value =
            serde_json::from_slice(&Failure::BlobUnknown.body()).expect("the body is JSON");
        assert_eq!(body["errors"][0]["code"], "BLOB_UNKNOWN");
        assert!(body["errors"][0]["message"].is_string());
    }
}
