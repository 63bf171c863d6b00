//! Faults at every point of a request: tried again, and gone on with where the body was cut.
#![cfg(feature = "inject")]

use std::time::Duration;

use larder_faults::{Kind, Site, clear, install_text};
use larder_remote::tree::{HttpTree, TreeAddress, TreeNode, TreePath, TreeStore as _};
use larder_remote::{BlobRange, HttpClient, Policy};
use larder_testkit::OddServer;

#[tokio::test]
async fn p3_faults_at_every_point_of_a_request_are_got_over() {
    let server = OddServer::start();
    let bytes: Vec<u8> = (0..300_000).map(|at: u32| at.to_le_bytes()[1]).collect();
    server.put("f", bytes.clone());
    let ms = Duration::from_millis;
    let policy = Policy { attempts: 12, backoff_base: ms(1), backoff_cap: ms(2), ..Policy::default() };
    let Ok(TreeAddress::Http(url)) = server.url().parse() else { panic!("an address") };
    let tree = HttpTree::new(HttpClient::new(policy).expect("a client"), url).expect("a tree");
    let path = TreePath::parse("f").expect("sound");
    install_text("seed=3 remote.*=eio:150000 remote.body=eio:150000+short:300000").expect("a plan");
    for _ in 0..20 {
        let found = tree.look_up(&path).await.expect("got over");
        let Some(TreeNode::File(version)) = found else { panic!("{found:?}") };
        let (mut got, all) = (Vec::new(), BlobRange::new(0, version.size).expect("forwards"));
        let read = tree.read(&path, all, &version, &mut |piece| got.extend_from_slice(&piece)).await;
        read.expect("got over");
        assert!(got == bytes);
    }
    let counts = clear();
    for (site, kind) in [
        (Site::RemoteConnect, Kind::Eio),
        (Site::RemoteHeaders, Kind::Eio),
        (Site::RemoteBody, Kind::Eio),
        (Site::RemoteBody, Kind::Short),
    ] {
        assert!(counts.faults(site, kind) > 0, "{}", site.name());
    }
}
