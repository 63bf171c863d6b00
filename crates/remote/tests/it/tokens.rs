//! Registries that want a token even from nobody.

use std::time::Duration;

use larder_remote::Error;
use larder_testkit::{Fault, Registry, Target, Times};

use crate::common::{range, serve};

fn paths(server: &Registry) -> Vec<(String, u16)> {
    let short = |path: &str| path.split('/').take(2).collect::<Vec<_>>().join("/");
    server.ledger().requests.iter().map(|request| (short(&request.path), request.status)).collect()
}

#[tokio::test]
async fn a_token_is_fetched_once_and_kept() {
    let served = serve(1000);
    served.server.require_tokens(300);
    served.registry.manifest("v1").await.expect("with a token");
    served.source.read_range(range(0, 10)).await.expect("with the same token");
    let expected = [("/v2", 401), ("/token", 200), ("/v2", 200), ("/v2", 206)];
    assert_eq!(paths(&served.server), expected.map(|(path, status)| (path.to_owned(), status)));
    let asked = served.server.ledger().requests[1].query.clone();
    assert_eq!(asked.as_deref(), Some("service=testkit&scope=repository%3Aany%3Apull"));
}

#[tokio::test]
async fn readers_side_by_side_fetch_one_token_between_them() {
    let served = serve(64_000);
    served.server.require_tokens(300);
    served.server.set_latency(Duration::from_millis(20));
    for round in 1..=3 {
        let reads = (0..16u64).map(|n| {
            let (source, want) = (served.source.clone(), range(n * 1000, (n + 1) * 1000));
            tokio::spawn(async move { source.read_range(want).await.expect("with a token") })
        });
        for read in reads.collect::<Vec<_>>() {
            read.await.expect("no panic");
        }
        let tokens = paths(&served.server).iter().filter(|(path, _)| path == "/token").count();
        assert_eq!(tokens, round);
        served.server.expire_tokens();
    }
}

#[tokio::test]
async fn a_token_about_to_expire_is_replaced_before_a_request_fails_for_it() {
    let served = serve(1000);
    served.server.require_tokens(1);
    served.source.read_range(range(0, 10)).await.expect("with a token");
    tokio::time::sleep(Duration::from_millis(950)).await;
    served.server.reset_ledger();
    served.source.read_range(range(0, 10)).await.expect("with a new token");
    assert_eq!(paths(&served.server), [("/token".to_owned(), 200), ("/v2".to_owned(), 206)]);
}

#[tokio::test]
async fn a_refused_token_is_told_with_a_hint() {
    let served = serve(1000);
    served.server.require_tokens(300);
    served.server.fail_at(Target::Path("/token".into()), Times::UntilCleared, Fault::Status(403));
    let error = served.source.read_range(range(0, 10)).await.expect_err("no token");
    assert!(matches!(error, Error::Status { status: 403, .. }), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("not supported yet")), "{error:?}");
    assert_eq!(served.server.requests(), 2);
}

#[tokio::test]
async fn a_token_server_in_trouble_is_asked_again() {
    let served = serve(1000);
    served.server.require_tokens(300);
    served.server.fail_at(Target::Path("/token".into()), Times::Next(1), Fault::Status(503));
    served.source.read_range(range(0, 10)).await.expect("the second try succeeds");
}

#[tokio::test]
async fn a_registry_that_refuses_its_own_token_is_not_asked_for_ever() {
    let served = serve(1000);
    served.server.require_tokens(300);
    served.source.read_range(range(0, 10)).await.expect("with a token");
    served.server.reset_ledger();
    served.server.fail(Fault::Status(401));
    let error = served.source.read_range(range(0, 10)).await.expect_err("refused");
    assert!(matches!(error, Error::Status { status: 401, .. }), "{error}");
    assert_eq!(served.server.requests(), 1, "a 401 without a challenge names no token server");
}
