//! What a server does wrong, and which error it becomes.

use std::time::{Duration, Instant, SystemTime};

use larder_remote::{Error, Policy, Registry};
use larder_testkit::{Content, Fault};

use crate::common::{client, impatient, quick, range, serve, serve_with};

const MIB: u64 = 1024 * 1024;

/// What sockets and buffers on the way may hold when a reader stops.
const IN_FLIGHT_BYTES_MAX: u64 = 16 * MIB;

/// Reads bytes 100..200 of a blob of 1000 from a server with `fault`: the error, and how many requests it took.
async fn fails_with(fault: Fault) -> (Error, usize) {
    let served = serve_with(impatient(), 1000);
    served.server.fail(fault);
    let error = served.source.read_range(range(100, 200)).await.expect_err("the server is at fault");
    (error, served.server.requests())
}

/// Reads bytes 100..200 of a blob of 1000 from a server with one `fault`, after which it is honest.
async fn recovers_from(fault: Fault) {
    let served = serve_with(impatient(), 1000);
    served.server.fail_next(1, fault);
    let got = served.source.read_range(range(100, 200)).await.expect("the second try succeeds");
    assert_eq!(got, served.bytes[100..200]);
    assert_eq!(served.server.requests(), 2);
    let read = served.source.meter().expect("it counts").read();
    assert_eq!((read.errors, read.retries), (1, 1));
}

#[tokio::test]
async fn a_refusal_is_told_at_once() {
    for status in [400, 401, 403, 404, 416, 418] {
        let (error, requests) = fails_with(Fault::Status(status)).await;
        assert!(matches!(error, Error::Status { status: s, .. } if s == status), "{error}");
        assert_eq!(requests, 1);
    }
    let (error, _) = fails_with(Fault::Status(404)).await;
    assert_eq!(error.hint(), Some("check the name and tag of the image"));
}

#[tokio::test]
async fn other_successes_are_no_success() {
    for status in [201, 203, 204] {
        let (error, _) = fails_with(Fault::Status(status)).await;
        assert!(matches!(error, Error::Status { status: s, .. } if s == status), "{error}");
    }
}

#[tokio::test]
async fn a_server_in_trouble_is_asked_again_a_bounded_number_of_times() {
    for status in [408, 429, 500, 502, 503, 504] {
        recovers_from(Fault::Status(status)).await;
    }
    let (error, requests) = fails_with(Fault::Status(500)).await;
    assert!(matches!(error, Error::Status { status: 500, .. }), "{error}");
    assert_eq!(requests, 3);
}

#[tokio::test]
async fn a_pause_that_the_server_names_is_waited_for() {
    let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(3));
    for (value, least) in [("1".to_owned(), 1000), (date, 1000), ("nonsense".to_owned(), 0)] {
        let started = Instant::now();
        recovers_from(Fault::RetryAfter { status: 429, value }).await;
        assert!(started.elapsed() >= Duration::from_millis(least));
    }
}

#[tokio::test]
async fn a_pause_beyond_the_deadline_is_told_instead_of_waited_for() {
    let started = Instant::now();
    let (error, requests) = fails_with(Fault::RetryAfter { status: 503, value: "3600".into() }).await;
    assert_eq!(error.retry_after(), Some(Duration::from_secs(3600)));
    assert_eq!(requests, 1);
    assert!(started.elapsed() < quick().deadline);
}

#[tokio::test]
async fn a_cut_connection_is_tried_again() {
    for fault in [Fault::Hangup, Fault::CloseEarly { after: 0 }, Fault::CloseEarly { after: 30 }] {
        recovers_from(fault.clone()).await;
        let (error, requests) = fails_with(fault).await;
        assert!(matches!(error, Error::Connection { .. }), "{error}");
        assert_eq!(requests, 3);
    }
}

#[tokio::test]
async fn what_came_before_a_cut_is_not_asked_for_again() {
    let served = serve_with(impatient(), 1000);
    served.server.fail_next(1, Fault::CloseEarly { after: 600 });
    served.server.fail_next(1, Fault::StallBody { after: 300 });
    let got = served.source.read_range(range(0, 1000)).await.expect("the third try brings the rest");
    assert_eq!(got, served.bytes);
    let ranges: Vec<_> = served.server.ledger().requests.into_iter().map(|request| request.range).collect();
    assert_eq!(ranges, [None, Some("bytes=600-999".into()), Some("bytes=900-999".into())]);
    assert_eq!(served.server.max_times_served(&served.digest), 1);
}

#[tokio::test]
async fn a_stream_hands_over_what_came_and_goes_on_after_a_cut() {
    let served = serve_with(impatient(), 1000);
    served.server.fail_next(1, Fault::CloseEarly { after: 600 });
    let mut pieces = Vec::new();
    let mut sink = |piece| pieces.push(piece);
    served.source.read_stream(range(0, 1000), &mut sink).await.expect("the second try brings the rest");
    assert!(pieces.len() > 1, "the first piece did not wait for the rest");
    assert_eq!(pieces.concat(), served.bytes);
    assert_eq!(served.server.max_times_served(&served.digest), 1);
}

#[tokio::test]
async fn a_body_without_progress_times_out_and_is_tried_again() {
    for after in [0, 50] {
        recovers_from(Fault::StallBody { after }).await;
    }
    let (error, _) = fails_with(Fault::StallBody { after: 30 }).await;
    assert!(matches!(error, Error::Timeout { after, .. } if after == impatient().read_timeout), "{error}");
}

#[tokio::test]
async fn an_answer_that_does_not_come_times_out() {
    let policy = Policy { connect_timeout: Duration::from_millis(100), attempts: 1, ..impatient() };
    let served = serve_with(policy, 1000);
    served.server.fail(Fault::Stall(Duration::from_secs(30)));
    let error = served.source.read_range(range(0, 10)).await.expect_err("the server is silent");
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
}

#[tokio::test]
async fn a_slow_body_that_makes_progress_is_no_failure() {
    let served = serve_with(impatient(), 1000);
    served.server.fail(Fault::SlowDrip { piece: 10, every: Duration::from_millis(100) });
    let started = Instant::now();
    let got = served.source.read_range(range(100, 200)).await.expect("it comes, slowly");
    assert_eq!(got, served.bytes[100..200]);
    assert!(started.elapsed() > impatient().read_timeout);
}

#[tokio::test]
async fn a_body_that_drips_beyond_the_deadline_is_given_up() {
    let policy = Policy { deadline: Duration::from_millis(500), ..quick() };
    let served = serve_with(policy, 1000);
    served.server.fail(Fault::SlowDrip { piece: 1, every: Duration::from_millis(50) });
    let started = Instant::now();
    let error = served.source.read_range(range(100, 200)).await.expect_err("too slow");
    assert!(matches!(error, Error::Timeout { after, .. } if after.as_millis() == 500), "{error}");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_body_of_another_length_is_refused_announced_or_not() {
    for (by, announced) in [(1, true), (-1, true), (-1, false), (5000, true), (1, false)] {
        let (error, _) = fails_with(Fault::WrongLength { by, announced }).await;
        let Error::Length { expected: 100, found, .. } = error else { panic!("{error}") };
        assert_eq!(found, 100u64.checked_add_signed(by).expect("positive"), "{by} {announced}");
    }
}

#[tokio::test]
async fn a_body_without_end_is_not_read_to_the_end() {
    let served = serve(1000);
    served.server.fail(Fault::WrongLength { by: 1 << 40, announced: false });
    let error = served.source.read_range(range(100, 200)).await.expect_err("too much");
    assert!(matches!(error, Error::Length { expected: 100, .. }), "{error}");
    let received = served.source.meter().expect("it counts").read().bytes;
    assert!(received < 3 * MIB, "{received} bytes were taken");
    assert!(served.server.bytes_served() < 3 * IN_FLIGHT_BYTES_MAX);
}

#[tokio::test]
async fn a_server_that_ignores_ranges_is_refused_and_its_body_is_not_read() {
    let mut content = Content::default();
    let len = 64 * MIB;
    let digest = content.add_blob(vec![7; usize::try_from(len).expect("small")]);
    let server = larder_testkit::Registry::start(content);
    server.fail(Fault::IgnoreRange);
    let registry = Registry::new(client(), &server.host(), "r").expect("sound names");
    let source = registry.blob(&digest.parse().expect("a digest"), len);
    let error = source.read_range(range(5, 4096)).await.expect_err("200 to a range");
    assert!(matches!(error, Error::RangeIgnored { .. }), "{error}");
    assert_eq!(server.requests(), 1, "this is no matter of trying again");
    assert_eq!(source.meter().expect("it counts").read().bytes, 0);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(server.bytes_served() < IN_FLIGHT_BYTES_MAX, "{} bytes were sent", server.bytes_served());
}

#[tokio::test]
async fn a_content_range_that_is_not_the_one_asked_for_is_refused() {
    for value in [
        "bytes 100-198/1000",
        "bytes 101-199/1000",
        "bytes 100-199/1001",
        "bytes 100-199/100",
        "bytes 0-99/1000",
        "lines 100-199/1000",
        "bytes 100-199",
        "",
    ] {
        let (error, requests) = fails_with(Fault::WrongContentRange(value.into())).await;
        assert!(matches!(&error, Error::ContentRange { found, .. } if found == value), "{error}");
        assert_eq!(requests, 1);
    }
    let served = serve(1000);
    served.server.fail(Fault::WrongContentRange("bytes 100-199/*".into()));
    served.source.read_range(range(100, 200)).await.expect("a server need not know the length");
}

#[tokio::test]
async fn an_encoded_body_is_refused() {
    let (error, _) = fails_with(Fault::ContentEncoding("gzip".into())).await;
    assert!(matches!(error, Error::Answer { .. }), "{error}");
    let served = serve(1000);
    served.server.fail(Fault::ContentEncoding("identity".into()));
    served.source.read_range(range(100, 200)).await.expect("identity is no encoding");
}

#[tokio::test]
async fn a_blob_shorter_than_its_descriptor_says_is_noticed() {
    let served = serve(1000);
    let longer = served.registry.blob(&served.digest.parse().expect("a digest"), 2000);
    let beyond = longer.read_range(range(1000, 1100)).await;
    assert!(matches!(beyond, Err(Error::Status { status: 416, .. })), "{beyond:?}");
    let across = longer.read_range(range(900, 1100)).await;
    assert!(matches!(across, Err(Error::ContentRange { .. })), "{across:?}");
    let inside = longer.read_range(range(0, 100)).await;
    assert!(matches!(inside, Err(Error::ContentRange { .. })), "{inside:?}");
    let whole = longer.read_range(range(0, 2000)).await;
    assert!(matches!(whole, Err(Error::Length { expected: 2000, found: 1000, .. })), "{whole:?}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_a_connection_error_with_a_hint() {
    let served = serve(1000);
    drop(served.server);
    let error = served.source.read_range(range(0, 10)).await.expect_err("nobody listens");
    assert!(matches!(error, Error::Connection { .. }), "{error}");
    assert_eq!(error.hint(), Some("check that the registry is up and reachable"));
    assert_eq!(served.source.meter().expect("it counts").read().requests, 3);
}

#[tokio::test]
async fn the_next_read_succeeds_once_the_server_is_honest() {
    let served = serve(1000);
    for fault in [Fault::Status(404), Fault::IgnoreRange, Fault::Hangup, Fault::WrongContentRange("x".into())]
    {
        served.server.fail(fault);
        served.source.read_range(range(1, 9)).await.expect_err("the server is at fault");
        served.server.clear_faults();
        let got = served.source.read_range(range(1, 9)).await.expect("no error outlives its cause");
        assert_eq!(got, served.bytes[1..9]);
    }
}

#[tokio::test]
async fn a_flipped_bit_arrives_as_it_is() {
    let served = serve(1000);
    served.server.fail(Fault::FlipBit { blob: served.digest.clone(), offset: 150 });
    let got = served.source.read_range(range(100, 200)).await.expect("digests are checked elsewhere");
    let differs: Vec<_> = (0..100).filter(|&n| got[n] != served.bytes[100 + n]).collect();
    assert_eq!((differs.as_slice(), got[50] ^ served.bytes[150]), (&[50][..], 1));
    let got = served.source.read_range(range(0, 150)).await.expect("untouched");
    assert_eq!(got, served.bytes[..150]);
}
