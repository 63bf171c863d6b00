//! Registries that send the client elsewhere for blobs.

use larder_remote::Error;
use larder_testkit::{Content, Fault, Registry, Target, Times};

use crate::common::{Served, range, serve};

/// A registry that sends its clients to a second server for blobs, with a signed address.
fn serve_elsewhere() -> (Served, Registry) {
    let served = serve(1000);
    let mut content = Content::default();
    content.add_blob(served.bytes.clone());
    let cdn = Registry::start(content);
    redirect(&served, format!("{}/cdn/{{digest}}?sig=secret", cdn.url()), Times::UntilCleared);
    (served, cdn)
}

fn redirect(served: &Served, location: String, times: Times) {
    served.server.fail_at(Target::Blobs, times, Fault::Redirect { status: 307, location });
}

#[tokio::test]
async fn every_kind_of_redirect_is_followed_to_a_relative_place_too() {
    for status in [301, 302, 303, 307, 308] {
        let served = serve(1000);
        let fault = Fault::Redirect { status, location: "/cdn/{digest}".into() };
        served.server.fail(fault);
        let got = served.source.read_range(range(10, 20)).await.expect("followed");
        assert_eq!(got, served.bytes[10..20]);
    }
}

#[tokio::test]
async fn the_place_that_a_blob_was_sent_to_is_asked_directly_from_then_on() {
    let (served, cdn) = serve_elsewhere();
    for start in 0..5 {
        let got = served.source.read_range(range(start, start + 10)).await.expect("followed");
        let start = usize::try_from(start).expect("small");
        assert_eq!(got, served.bytes[start..start + 10]);
    }
    assert_eq!((served.server.requests(), cdn.requests()), (1, 5));
    assert_eq!(cdn.ledger().requests[4].query.as_deref(), Some("sig=secret"));
}

#[tokio::test]
async fn a_signed_address_that_has_run_out_is_replaced_within_the_same_read() {
    for status in [400, 401, 403, 404, 410] {
        let (served, cdn) = serve_elsewhere();
        served.source.read_range(range(0, 10)).await.expect("followed");
        cdn.fail_at(Target::Path("/cdn/".into()), Times::Next(1), Fault::Status(status));
        let got = served.source.read_range(range(10, 20)).await.expect("the registry signs again");
        assert_eq!(got, served.bytes[10..20]);
        assert_eq!((served.server.requests(), cdn.requests()), (2, 3));
        assert_eq!(served.source.meter().expect("it counts").read().retries, 0);
    }
}

#[tokio::test]
async fn the_registry_is_asked_again_when_the_other_place_is_gone() {
    let (served, cdn) = serve_elsewhere();
    served.source.read_range(range(0, 10)).await.expect("followed");
    drop(cdn);
    served.server.clear_faults();
    let got = served.source.read_range(range(10, 20)).await.expect("the registry has it now");
    assert_eq!(got, served.bytes[10..20]);
}

#[tokio::test]
async fn a_token_never_goes_to_another_host() {
    let (served, cdn) = serve_elsewhere();
    served.server.require_tokens(300);
    for _ in 0..2 {
        served.source.read_range(range(0, 10)).await.expect("followed");
    }
    let registry = served.server.ledger().requests;
    assert!(registry.iter().any(|request| request.authorization.as_deref() == Some("Bearer token-0")));
    assert!(cdn.ledger().requests.iter().all(|request| request.authorization.is_none()));
}

#[tokio::test]
async fn a_token_does_not_come_back_with_a_client_that_was_sent_away_and_back() {
    let (served, cdn) = serve_elsewhere();
    served.server.require_tokens(300);
    let back = format!("{}/cdn/{{digest}}", served.server.url());
    let fault = Fault::Redirect { status: 302, location: back };
    cdn.fail_at(Target::Path("/cdn/".into()), Times::UntilCleared, fault);
    served.source.read_range(range(0, 10)).await.expect("followed");
    let last = served.server.ledger().requests.pop().expect("requests");
    assert!(last.path.starts_with("/cdn/") && last.authorization.is_none(), "{last:?}");
}

#[tokio::test]
async fn a_place_that_redirects_cannot_ask_for_a_token() {
    let (served, cdn) = serve_elsewhere();
    served.server.require_tokens(300);
    let away = Fault::Redirect { status: 302, location: "/v2/r/blobs/{digest}".into() };
    cdn.fail_at(Target::Path("/cdn/".into()), Times::UntilCleared, away);
    cdn.require_tokens(300);
    // The first read has no token yet, the second one has.
    for _ in 0..2 {
        let error = served.source.read_range(range(0, 10)).await.expect_err("not the registry");
        assert!(matches!(error, Error::Status { status: 401, .. }), "{error}");
    }
    assert!(cdn.ledger().requests.iter().all(|request| request.path != "/token"));
}

#[tokio::test]
async fn five_redirects_are_followed_and_six_are_not() {
    for (times, followed) in [(5, true), (6, false)] {
        let served = serve(1000);
        redirect(&served, "/v2/again/blobs/{digest}".into(), Times::Next(times));
        let got = served.source.read_range(range(0, 10)).await;
        match got {
            Ok(_) => assert!(followed),
            Err(Error::Redirect { .. }) => assert!(!followed),
            Err(other) => panic!("{other}"),
        }
        assert_eq!(served.server.requests(), 6);
    }
}

#[tokio::test]
async fn a_redirect_to_nowhere_sound_is_refused() {
    for location in ["file:///etc/passwd", "http://", "gopher://x/"] {
        let served = serve(1000);
        redirect(&served, location.into(), Times::UntilCleared);
        let error = served.source.read_range(range(0, 10)).await.expect_err(location);
        assert!(matches!(error, Error::Redirect { .. }), "{error}");
        assert_eq!(served.server.requests(), 1);
    }
}

#[tokio::test]
async fn errors_name_both_places_and_no_signature() {
    let (served, cdn) = serve_elsewhere();
    cdn.fail_at(Target::Path("/cdn/".into()), Times::UntilCleared, Fault::Status(404));
    let missing = served.source.read_range(range(0, 10)).await.expect_err("not there");
    cdn.clear_faults();
    cdn.fail_at(Target::Path("/cdn/".into()), Times::UntilCleared, Fault::Hangup);
    let cut = served.source.read_range(range(0, 10)).await.expect_err("cut");
    for error in [missing, cut] {
        let text = format!("{error} {error:?}");
        assert!(text.contains(&served.server.host()) && text.contains(&cdn.host()), "{text}");
        assert!(!text.contains("secret"), "{text}");
    }
}
