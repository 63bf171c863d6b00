//! Faults at every point of the way: a reader gets the right bytes or an error, and the next read tries again.
#![cfg(feature = "inject")]

#[path = "it/common/mod.rs"]
mod common;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use common::{cached, noise};
use larder_faults::{Kind, Site, clear, install_text};
use larder_fscache::ObjectRange;
use larder_netfs::{Cached, Limits, Netfs, Source, SourceError, Version};

/// A file on a far side that is well.
struct Well(Vec<u8>);

impl Well {
    fn version(&self) -> Version {
        Version { size: self.0.len() as u64, etag: Some("\"1\"".into()), modified: None }
    }
}

#[async_trait]
impl Source for Well {
    async fn read(
        &self,
        range: ObjectRange,
        sink: &mut (dyn FnMut(Bytes) + Send),
    ) -> Result<(), SourceError> {
        let at = |n| usize::try_from(n).unwrap();
        let whole = &self.0[at(range.start())..at(range.end())];
        whole.chunks(70_000).for_each(|piece| sink(Bytes::copy_from_slice(piece)));
        Ok(())
    }

    fn describe(&self) -> String {
        "far/file".into()
    }
}

#[tokio::test]
async fn p1_faults_at_every_point_cost_errors_and_never_bytes() {
    const LEN: usize = 1 << 20;
    let bytes = noise(LEN, 1);
    let far = Arc::new(Well(bytes.clone()));
    let limits =
        Limits { download_bytes_max: 64 << 10, window_bytes: (64 << 10, 64 << 10), ..Limits::default() };
    let netfs = Netfs::new(tokio::runtime::Handle::current(), limits).unwrap();
    let (cached, _) = cached(LEN as u64);
    let plan = "seed=5 netfs.*=eio:200000 netfs.download=eio:200000+short:300000 \
        netfs.read_cache=eio:300000+short:300000";
    install_text(plan).unwrap();
    let kept = cached.resources().unwrap().clone();
    let file = netfs.open(far.clone(), &far.version(), cached);
    let mut failed = 0;
    for round in 0..20 {
        for at in (0..LEN).step_by(48 << 10) {
            match file.read(at as u64, 80 << 10).await {
                Ok(got) => assert!(got.concat() == bytes[at..LEN.min(at + (80 << 10))], "{round}: {at}"),
                Err(_) => failed += 1,
            }
        }
        netfs.flush();
    }
    let counts = clear();
    for site in Site::ALL.iter().filter(|site| site.layer() == "netfs") {
        assert!(counts.visits(*site) > 0, "nothing came by {}", site.name());
    }
    for (site, kind) in [
        (Site::NetfsDownload, Kind::Eio),
        (Site::NetfsDownload, Kind::Short),
        (Site::NetfsReadCache, Kind::Eio),
        (Site::NetfsCopyToCache, Kind::Eio),
    ] {
        assert!(counts.faults(site, kind) > 0, "{}", site.name());
    }
    assert!(failed > 0, "what fails is told");
    let whole = file.read(0, LEN).await.expect("no fault any more");
    assert!(whole.concat() == bytes);
    drop(file);
    // What is in memory is not written again, and a machine that is busy leaves writes out.
    for _ in 0..100 {
        let file = netfs.open(far.clone(), &far.version(), Cached::new(kept.clone()));
        assert!(file.read(0, LEN).await.expect("no fault any more").concat() == bytes);
        netfs.flush();
        if kept.is_complete() {
            return;
        }
    }
    panic!("the cache does not get what it was not given before");
}
