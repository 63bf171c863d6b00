//! What the tests share: policies, ranges, a served blob.

use std::{sync::Arc, time::Duration};

use larder_remote::{BlobRange, HttpClient, Policy, RangeSource, Registry};
use larder_testkit::Content;

/// A policy that tries again at once; its timeouts are far off, for busy machines.
pub fn quick() -> Policy {
    Policy {
        connect_timeout: Duration::from_secs(10),
        read_timeout: Duration::from_secs(10),
        deadline: Duration::from_secs(30),
        attempts: 3,
        backoff_base: Duration::from_millis(2),
        backoff_cap: Duration::from_millis(10),
    }
}

/// A policy under which silence is noticed soon.
pub fn impatient() -> Policy {
    Policy { read_timeout: Duration::from_millis(700), ..quick() }
}

pub fn client() -> HttpClient {
    HttpClient::new(quick()).expect("a client")
}

/// Bytes that differ from place to place.
pub fn pattern(len: u32) -> Vec<u8> {
    (0..len).map(|n| (n.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0]).collect()
}

pub fn range(start: u64, end: u64) -> BlobRange {
    BlobRange::new(start, end).expect("forwards")
}

/// A served blob: the server, the client's view of it, its digest and its bytes.
pub struct Served {
    pub server: larder_testkit::Registry,
    pub registry: Registry,
    pub source: Arc<dyn RangeSource>,
    pub digest: String,
    pub bytes: Vec<u8>,
}

pub fn serve(len: u32) -> Served {
    serve_with(quick(), len)
}

pub fn serve_with(policy: Policy, len: u32) -> Served {
    let client = HttpClient::new(policy).expect("a client");
    let bytes = pattern(len);
    let mut content = Content::default();
    let digest = content.add_blob(bytes.clone());
    content.add_manifest("v1", br#"{"mediaType":"application/vnd.oci.image.manifest.v1+json"}"#.as_slice());
    let server = larder_testkit::Registry::start(content);
    let registry = Registry::new(client, &server.host(), "some/repository").expect("sound names");
    let source = registry.blob(&digest.parse().expect("a digest"), len.into());
    Served { server, registry, source, digest, bytes }
}
