//! Manifests and other documents.

use std::time::Duration;

use larder_remote::{Error, HttpClient, Policy, Registry};
use larder_testkit::{Content, Fault};

use crate::common::{self, client, serve};

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

#[tokio::test]
async fn a_manifest_comes_by_tag_and_by_digest() {
    let served = serve(10);
    let by_tag = served.registry.manifest("v1").await.expect("there");
    assert_eq!(by_tag.media_type.as_deref(), Some(OCI_MANIFEST));
    let digest = by_tag.digest.expect("the registry says it").to_string();
    let by_digest = served.registry.manifest(&digest).await.expect("there");
    assert_eq!(by_tag.bytes, by_digest.bytes);
    let asked = served.server.ledger().requests;
    assert_eq!(asked[0].path, "/v2/some/repository/manifests/v1");
    let accept = asked[0].accept.as_deref().expect("sent");
    for kind in ["oci.image.manifest.v1", "oci.image.index.v1", "manifest.v2", "manifest.list.v2"] {
        assert!(accept.contains(kind), "{accept}");
    }
    assert_eq!(served.registry.meter().read().requests, 2);
}

#[tokio::test]
async fn a_missing_manifest_is_told_with_a_hint_and_a_flaky_one_is_fetched() {
    let served = serve(10);
    let error = served.registry.manifest("v2").await.expect_err("not there");
    assert!(matches!(error, Error::Status { status: 404, .. }), "{error}");
    assert_eq!(error.hint(), Some("check the name and tag of the image"));
    served.server.fail_next(1, Fault::CloseEarly { after: 5 });
    served.registry.manifest("v1").await.expect("the second try succeeds");
}

#[tokio::test]
async fn names_outside_the_spec_make_no_request() {
    let served = serve(10);
    for reference in ["", "../v1", "v1?x", "sha256:xyz", "a b", "-v"] {
        let got = served.registry.manifest(reference).await;
        assert!(matches!(got, Err(Error::Address { .. })), "{reference}");
    }
    for (host, repository) in
        [("host/x", "r"), ("me:pw@host", "r"), ("host", "UPPER"), ("host", "a/../b"), ("", "r")]
    {
        let got = Registry::new(client(), host, repository);
        assert!(matches!(got, Err(Error::Address { .. })), "{host} {repository}");
    }
    assert_eq!(served.server.requests(), 0);
}

#[test]
fn the_loopback_is_asked_by_http_and_others_by_https_unless_told_otherwise() {
    for (host, expected) in
        [("127.0.0.1:5000", "http"), ("localhost", "http"), ("[::1]:80", "http"), ("r.example", "https")]
    {
        let registry = Registry::new(client(), host, "r").expect("sound names");
        assert_eq!(registry.describe().split(':').next(), Some(expected), "{host}");
    }
    let registry = Registry::insecure(client(), "r.example:5000", "r").expect("sound names");
    assert_eq!(registry.describe(), "http://r.example:5000/v2/r/");
}

#[tokio::test]
async fn a_document_over_the_bound_is_refused_and_not_read_to_the_end() {
    let mut content = Content::default();
    let digest = content.add_manifest("big", vec![b' '; 64 << 20]);
    let server = larder_testkit::Registry::start(content);
    let registry = Registry::new(client(), &server.host(), "r").expect("sound names");
    for announced in [true, false] {
        server.fail_next(1, Fault::WrongLength { by: 0, announced });
        let error = registry.manifest("big").await.expect_err("too large");
        assert!(matches!(error, Error::TooLarge { max: 4_194_304, .. }), "{error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(server.bytes_served() < 24 << 20, "{} bytes were sent", server.bytes_served());
        server.reset_ledger();
    }
    let url = format!("{}/v2/r/blobs/{digest}", server.url());
    let exactly = client().get_bounded(&url, &[], 64 << 20).await.expect("as large as allowed");
    assert_eq!(exactly.0.len(), 64 << 20);
    let error = client().get_bounded(&url, &[], (64 << 20) - 1).await.expect_err("one byte too large");
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
}

#[tokio::test]
async fn a_server_without_tls_is_not_trusted_and_not_asked_again() {
    let served = serve(10);
    let url = served.server.url().replace("http:", "https:");
    let client = HttpClient::new(Policy { attempts: 5, ..common::quick() }).expect("a client");
    let error = client.get_bounded(&url, &[], 10).await.expect_err("no TLS there");
    assert!(matches!(error, Error::Tls { .. }), "{error:?}");
}
