//! Ranges of a blob, from an honest server.

use larder_remote::Error;

use crate::common::{range, serve};

#[tokio::test]
async fn a_range_is_exactly_what_was_asked_for() {
    let served = serve(300_000);
    for (start, end) in
        [(0, 1), (0, 299_999), (1, 300_000), (299_999, 300_000), (65_535, 65_537), (7, 200_000)]
    {
        let got = served.source.read_range(range(start, end)).await.expect("an honest server");
        let at = |n| usize::try_from(n).expect("small");
        assert_eq!(got, served.bytes[at(start)..at(end)], "{start}..{end}");
    }
    let asked = served.server.ledger().requests;
    assert!(asked.iter().all(|request| request.status == 206));
    assert_eq!(asked[0].range.as_deref(), Some("bytes=0-0"));
}

#[tokio::test]
async fn the_whole_blob_is_asked_for_without_a_range() {
    let served = serve(300_000);
    let got = served.source.read_range(range(0, 300_000)).await.expect("an honest server");
    assert_eq!(got, served.bytes);
    let asked = served.server.ledger().requests;
    assert_eq!((asked.len(), asked[0].range.as_deref(), asked[0].status), (1, None, 200));
}

#[tokio::test]
async fn an_empty_range_asks_for_nothing_and_one_beyond_is_refused() {
    let served = serve(10);
    assert!(served.source.read_range(range(4, 4)).await.expect("nothing").is_empty());
    let beyond = served.source.read_range(range(4, 11)).await;
    assert!(matches!(beyond, Err(Error::OutOfBounds { len: 10, .. })));
    assert_eq!(served.server.requests(), 0);
}

#[tokio::test]
async fn a_meter_counts_requests_and_bytes() {
    let served = serve(10_000);
    for _ in 0..3 {
        served.source.read_range(range(0, 1000)).await.expect("an honest server");
    }
    let read = served.source.meter().expect("it counts").read();
    assert_eq!((read.requests, read.bytes, read.errors, read.retries), (3, 3000, 0, 0));
}

#[tokio::test]
async fn many_ranges_side_by_side_come_back_right() {
    let served = serve(1 << 20);
    let reads = (0..64u64).map(|n| {
        let (source, want) = (served.source.clone(), range(n * 16_384, (n + 1) * 16_384));
        tokio::spawn(async move { source.read_range(want).await.expect("an honest server") })
    });
    let mut got = Vec::new();
    for read in reads.collect::<Vec<_>>() {
        got.extend_from_slice(&read.await.expect("no panic"));
    }
    assert_eq!(got, served.bytes);
    assert_eq!(served.server.max_times_served(&served.digest), 1);
}
