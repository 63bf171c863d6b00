//! The registry seen through a bare socket, so that nothing of a client hides what it does.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use larder_testkit::{Content, Fault, Registry};

/// Sends one request and returns all that comes until the server closes or is silent for two seconds.
fn talk(registry: &Registry, request: &str) -> String {
    let mut stream = TcpStream::connect(registry.host()).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(2))).expect("set");
    write!(stream, "{request}\r\nHost: x\r\nConnection: close\r\n\r\n").expect("sent");
    let mut answer = Vec::new();
    let mut buffer = [0; 64 * 1024];
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        answer.extend_from_slice(&buffer[..n]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn registry(len: usize) -> (Registry, String) {
    let mut content = Content::default();
    let digest = content.add_blob(vec![b'x'; len]);
    (Registry::start(content), digest)
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").expect("a head").1
}

#[test]
fn a_range_is_answered_and_noted() {
    let (registry, digest) = registry(100);
    let answer = talk(&registry, &format!("GET /v2/r/blobs/{digest} HTTP/1.1\r\nRange: bytes=10-19"));
    assert!(answer.starts_with("HTTP/1.1 206"), "{answer}");
    assert!(answer.contains("content-range: bytes 10-19/100\r\n"), "{answer}");
    assert_eq!(body(&answer), "xxxxxxxxxx");
    assert_eq!(registry.ledger().served[&digest], [(10, 20)]);
    assert_eq!((registry.requests(), registry.bytes_served()), (1, 10));
    let answer = talk(&registry, &format!("GET /v2/r/blobs/{digest} HTTP/1.1\r\nRange: bytes=100-"));
    assert!(answer.starts_with("HTTP/1.1 416"), "{answer}");
    let answer = talk(&registry, &format!("HEAD /v2/r/blobs/{digest} HTTP/1.1"));
    assert!(answer.contains("content-length: 100\r\n") && body(&answer).is_empty(), "{answer}");
    assert!(talk(&registry, "GET /v2/r/manifests/none HTTP/1.1").starts_with("HTTP/1.1 404"));
}

#[test]
fn a_cut_really_closes_the_stream_after_the_bytes_announced_for_it() {
    let (registry, digest) = registry(1000);
    registry.fail(Fault::CloseEarly { after: 300 });
    let started = Instant::now();
    let answer = talk(&registry, &format!("GET /v2/r/blobs/{digest} HTTP/1.1"));
    assert!(answer.contains("content-length: 1000\r\n"), "{answer}");
    assert_eq!(body(&answer).len(), 300);
    registry.clear_faults();
    registry.fail(Fault::Hangup);
    assert_eq!(talk(&registry, &format!("GET /v2/r/blobs/{digest} HTTP/1.1")), "");
    assert!(started.elapsed() < Duration::from_secs(2), "closed, not silent");
}

#[test]
fn faults_last_as_long_as_told() {
    let (registry, digest) = registry(10);
    registry.fail_next(2, Fault::Status(503));
    let status = || talk(&registry, &format!("GET /v2/r/blobs/{digest} HTTP/1.1"))[9..12].to_owned();
    assert_eq!([status(), status(), status()], ["503", "503", "200"]);
    registry.fail(Fault::Status(500));
    assert_eq!([status(), status()], ["500", "500"]);
    registry.clear_faults();
    assert_eq!(status(), "200");
}

#[test]
fn the_link_has_the_latency_and_bandwidth_set() {
    let (registry, digest) = registry(500_000);
    registry.set_latency(Duration::from_millis(100));
    registry.set_bandwidth(1_000_000);
    let started = Instant::now();
    let answer = talk(&registry, &format!("GET /v2/r/blobs/{digest} HTTP/1.1"));
    assert_eq!(body(&answer).len(), 500_000);
    assert!(started.elapsed() >= Duration::from_millis(550), "{:?}", started.elapsed());
}

#[test]
fn dropping_it_cuts_what_is_under_way() {
    let (registry, digest) = registry(1000);
    registry.fail(Fault::StallBody { after: 10 });
    let mut stream = TcpStream::connect(registry.host()).expect("it listens");
    write!(stream, "GET /v2/r/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
    let mut first = [0; 1];
    stream.read_exact(&mut first).expect("an answer begins");
    let host = registry.host();
    drop(registry);
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
    let mut rest = Vec::new();
    let ended = stream.read_to_end(&mut rest);
    assert!(!matches!(&ended, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock), "{ended:?}");
    TcpStream::connect(host).expect_err("nobody listens any more");
}
