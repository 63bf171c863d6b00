//! Trees on real servers: nginx with its indexes, nginx with WebDAV, moto's S3; and on one that changes files.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use larder_remote::tree::{
    FileVersion, HttpTree, Listed, S3Options, S3Tree, TreeAddress, TreeEntry, TreeNode, TreePath, TreeStore,
};
use larder_remote::{BlobRange, Error, HttpClient, Policy};
use larder_testkit::{Behaviour, Listing, Moto, Nginx, OddServer};

use crate::common::range;

fn client() -> HttpClient {
    let ms = Duration::from_millis;
    let policy = Policy {
        attempts: 4,
        backoff_base: ms(5),
        backoff_cap: ms(20),
        read_timeout: ms(2000),
        ..Policy::default()
    };
    HttpClient::new(policy).expect("a client")
}

fn http(url: &str) -> HttpTree {
    let Ok(TreeAddress::Http(url)) = url.parse() else { panic!("{url} is an address") };
    HttpTree::new(client(), url).expect("a tree")
}

fn path(text: &str) -> TreePath {
    TreePath::parse(text).expect("sound")
}

fn skip(test: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
}

async fn version(tree: &dyn TreeStore, file: &str) -> FileVersion {
    match tree.look_up(&path(file)).await.expect("it answers") {
        Some(TreeNode::File(version)) => version,
        other => panic!("{file}: {other:?}"),
    }
}

async fn read(
    tree: &dyn TreeStore,
    file: &str,
    range: BlobRange,
    version: &FileVersion,
) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    tree.read(&path(file), range, version, &mut |piece| bytes.extend_from_slice(&piece)).await?;
    Ok(bytes)
}

async fn names(tree: &dyn TreeStore, directory: &str) -> Vec<(String, bool)> {
    let entries = tree.list(&path(directory)).await.expect("it can be listed");
    let name = |entry: TreeEntry| (entry.name, entry.node == Listed::Directory);
    let mut names: Vec<_> = entries.into_iter().map(name).collect();
    names.sort();
    names
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at % 251).expect("small")).collect()
}

fn fill(root: &Path) {
    std::fs::create_dir_all(root.join("sub dir/deep")).expect("made");
    std::fs::write(root.join("a file & é%.bin"), pattern(100_000)).expect("written");
    std::fs::write(root.join("sub dir/x"), b"x").expect("written");
    std::fs::write(root.join("empty"), b"").expect("written");
}

/// What every tree must do.
async fn is_served(tree: &dyn TreeStore) {
    let file = |name: &str| (name.to_owned(), false);
    let dir = |name: &str| (name.to_owned(), true);
    assert_eq!(names(tree, "").await, [file("a file & é%.bin"), file("empty"), dir("sub dir")]);
    assert_eq!(names(tree, "sub dir").await, [dir("deep"), file("x")]);
    assert_eq!(tree.look_up(&path("sub dir")).await.expect("answered"), Some(TreeNode::Directory));
    assert_eq!(tree.look_up(&path("sub dir/none")).await.expect("answered"), None);
    let version = version(tree, "a file & é%.bin").await;
    assert!(version.size == 100_000 && version.etag.is_some() && version.modified.is_some(), "{version:?}");
    for (start, end) in [(0, 100_000), (0, 1), (99_999, 100_000), (5_000, 70_001), (7, 7)] {
        let got = read(tree, "a file & é%.bin", range(start, end), &version).await.expect("there");
        let at = |byte: u64| usize::try_from(byte).expect("small");
        assert!(got == pattern(100_000)[at(start)..at(end)], "{start}..{end}");
    }
    let beyond = read(tree, "a file & é%.bin", range(0, 100_001), &version).await;
    assert!(matches!(beyond, Err(Error::OutOfBounds { .. })), "{beyond:?}");
    let stale = FileVersion { etag: Some("\"another\"".into()), ..version };
    let changed = read(tree, "a file & é%.bin", range(0, 10), &stale).await;
    assert!(matches!(changed, Err(Error::Changed { .. })), "{changed:?}");
}

#[tokio::test]
async fn a_tree_is_read_from_nginx_by_its_indexes_and_by_webdav() {
    for listing in [Listing::Index, Listing::WebDav] {
        let root = tempfile::tempdir().expect("a temporary directory");
        fill(root.path());
        let nginx = match Nginx::start(root.path(), listing) {
            Ok(nginx) => nginx,
            Err(why) => {
                skip(&format!("a_tree_is_read_from_nginx ({listing:?})"), &why);
                continue;
            }
        };
        let tree = http(&nginx.url());
        is_served(&tree).await;
        let below = http(&format!("{}sub%20dir/", nginx.url()));
        assert_eq!(names(&below, "").await, [("deep".to_owned(), true), ("x".to_owned(), false)]);
        assert!(tree.meter().read().requests > 5);
    }
}

#[tokio::test]
async fn a_tree_is_read_from_an_s3_server_whole_and_below_a_prefix() {
    let moto = match Moto::start() {
        Ok(moto) => moto,
        Err(why) => return skip("a_tree_is_read_from_an_s3_server", &why),
    };
    moto.put("bucket", b"");
    for (key, bytes) in [
        ("data/a%20file%20%26%20%C3%A9%25.bin", pattern(100_000)),
        ("data/sub%20dir/x", b"x".to_vec()),
        ("data/sub%20dir/deep/y", b"y".to_vec()),
        ("data/empty", Vec::new()),
        ("data-of-others", b"z".to_vec()),
    ] {
        moto.put(&format!("bucket/{key}"), &bytes);
    }
    let environment = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let signed = vec![
        environment("AWS_ENDPOINT_URL", &moto.endpoint()),
        environment("AWS_ACCESS_KEY_ID", "test"),
        environment("AWS_SECRET_ACCESS_KEY", "a secret"),
        environment("AWS_REGION", "us-east-1"),
    ];
    let options = S3Options { environment: signed, ..S3Options::default() };
    let tree = S3Tree::new(client(), "bucket", path("data"), &options).expect("a tree");
    is_served(&tree).await;
    let anonymous = S3Options {
        environment: vec![environment("AWS_ENDPOINT_URL", &moto.endpoint())],
        anonymous: true,
        insecure: false,
    };
    let whole = S3Tree::new(client(), "bucket", TreePath::root(), &anonymous).expect("a tree");
    assert_eq!(names(&whole, "").await, [("data".to_owned(), true), ("data-of-others".to_owned(), false)]);
    let listed = tree.list(&TreePath::root()).await.expect("listed");
    let entry = listed.iter().find(|entry| entry.name == "empty").expect("there");
    assert_eq!(
        entry.node,
        Listed::Version(version(&tree, "empty").await),
        "a listing says what a look-up says"
    );
    let none = S3Tree::new(client(), "no-such-bucket", TreePath::root(), &anonymous).expect("a tree");
    let error = none.list(&TreePath::root()).await.expect_err("there is none");
    assert!(matches!(error, Error::Status { status: 404, .. }), "{error:?}");
}

#[tokio::test]
async fn a_directory_of_thousands_of_objects_is_listed_page_by_page() {
    let moto = match Moto::start() {
        Ok(moto) => moto,
        Err(why) => return skip("a_directory_of_thousands_of_objects", &why),
    };
    moto.put("many", b"");
    for n in 0..1_050 {
        moto.put(&format!("many/o-{n:04}"), b"1");
    }
    let environment = vec![("AWS_ENDPOINT_URL".to_owned(), moto.endpoint())];
    let options = S3Options { environment, anonymous: true, insecure: false };
    let tree = S3Tree::new(client(), "many", TreePath::root(), &options).expect("a tree");
    assert_eq!(names(&tree, "").await.len(), 1_050, "a page has 1000");
}

/// A page of a bucket's listing.
fn page(keys: &[&str], prefixes: &[&str], next: Option<&str>) -> String {
    let keys = keys.iter().map(|key| {
        format!(
            "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>\"1\"</ETag>\
             <Size>1</Size></Contents>"
        )
    });
    let prefixes =
        prefixes.iter().map(|prefix| format!("<CommonPrefixes><Prefix>{prefix}</Prefix></CommonPrefixes>"));
    let next = next.map(|token| format!("<NextContinuationToken>{token}</NextContinuationToken>"));
    let all: String = keys.chain(prefixes).chain(next).collect();
    format!("<?xml version=\"1.0\"?><ListBucketResult>{all}</ListBucketResult>")
}

fn bucket(server: &OddServer, prefix: &str) -> S3Tree {
    let environment = vec![("AWS_ENDPOINT_URL".to_owned(), server.url().trim_end_matches('/').to_owned())];
    let options = S3Options { environment, anonymous: true, insecure: false };
    S3Tree::new(client(), "b", path(prefix), &options).expect("a tree")
}

#[tokio::test]
async fn an_odd_key_hides_nothing_but_itself() {
    let server = OddServer::start();
    let first = page(&["d/a", "d/&#10;", "d/.."], &["d//", "d/s/"], Some("t"));
    server.page("b?delimiter=%2F&list-type=2&prefix=d%2F", &first);
    server.page("b?continuation-token=t&delimiter=%2F&list-type=2&prefix=d%2F", &page(&["d/z"], &[], None));
    server.page("b?list-type=2&prefix=d%2Fs%2F&max-keys=1", &page(&["d/s//x"], &[], None));
    let tree = bucket(&server, "d");
    let expected = [("a".to_owned(), false), ("s".to_owned(), true), ("z".to_owned(), false)];
    assert_eq!(names(&tree, "").await, expected);
    let s = tree.look_up(&path("s")).await.expect("answered");
    assert_eq!(s, Some(TreeNode::Directory), "there, with nothing in it that can be shown");
}

#[tokio::test]
async fn what_no_key_can_be_is_not_there_and_not_the_bucket() {
    let server = OddServer::start();
    server.page("b?delimiter=%2F&list-type=2", &page(&[], &["of-others/"], None));
    server.page("b?list-type=2&max-keys=1", &page(&["of-others/x"], &[], None));
    let version = FileVersion { size: 1, etag: Some("\"1\"".into()), modified: None, is_settled: true };
    for tree in [bucket(&server, "d"), bucket(&server, "")] {
        assert_eq!(tree.look_up(&path("\n")).await.expect("answered"), None);
        for gone in
            [tree.list(&path("\n")).await.map(drop), read(&tree, "\n", range(0, 1), &version).await.map(drop)]
        {
            assert!(matches!(gone, Err(Error::Status { status: 404, .. })), "{gone:?}");
        }
    }
    let whole = read(&bucket(&server, ""), "", range(0, 1), &version).await;
    assert!(matches!(whole, Err(Error::Status { status: 404, .. })), "a bucket is no file: {whole:?}");
    assert_eq!(server.requests(), Vec::<String>::new(), "nobody need be asked");
}

#[tokio::test]
async fn an_object_beside_a_directory_of_its_name_is_the_directory_for_all() {
    let server = OddServer::start();
    server.put("b/x", b"1".to_vec());
    server.put("b/y", b"1".to_vec());
    server.page("b?delimiter=%2F&list-type=2", &page(&["x", "y"], &["x/"], None));
    server.page("b?list-type=2&prefix=x%2F&max-keys=1", &page(&["x/z"], &[], None));
    server.page("b?list-type=2&prefix=y%2F&max-keys=1", &page(&[], &[], None));
    let tree = bucket(&server, "");
    assert_eq!(names(&tree, "").await, [("x".to_owned(), true), ("y".to_owned(), false)]);
    assert_eq!(tree.look_up(&path("x")).await.expect("answered"), Some(TreeNode::Directory));
    assert!(matches!(tree.look_up(&path("y")).await.expect("answered"), Some(TreeNode::File(_))));
}

#[tokio::test]
async fn p3_an_object_is_there_while_its_bucket_cannot_be_listed() {
    let server = OddServer::start();
    server.put("b/x", b"1".to_vec());
    server.page("b?list-type=2&prefix=x%2F&max-keys=1", &page(&[], &[], None));
    let tree = bucket(&server, "");
    let found = tree.look_up(&path("x")).await.expect("answered");
    assert!(matches!(found, Some(TreeNode::File(_))), "{found:?}");
    let asked = server.requests().len();
    assert_eq!(tree.confirm(&path("x")).await.expect("answered"), found);
    assert_eq!(tree.confirm(&path("y")).await.expect("answered"), None);
    assert_eq!(server.requests()[asked..], ["HEAD /b/x", "HEAD /b/y"]);
    server.behave(Behaviour { answers_queries: Some("503 Service Unavailable"), ..Behaviour::default() });
    assert_eq!(tree.look_up(&path("x")).await.expect("answered"), found);
    let error = tree.look_up(&path("y")).await.expect_err("it may be a directory");
    assert!(error.is_transient(), "{error}");
}

#[test]
fn an_endpoint_in_the_clear_is_refused_without_telling_a_secret() {
    let environment =
        ["AWS_ENDPOINT_URL=http://s3.example", "AWS_ACCESS_KEY_ID=me", "AWS_SECRET_ACCESS_KEY=a secret"];
    let split = |entry: &str| entry.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    let environment: Vec<_> = environment.into_iter().filter_map(split).collect();
    let options = S3Options { environment, ..S3Options::default() };
    let Err(error) = S3Tree::new(client(), "b", TreePath::root(), &options) else { panic!("plain HTTP") };
    assert!(matches!(error, Error::Address { .. }) && !format!("{error:?}").contains("secret"), "{error:?}");
    let allowed = S3Options { insecure: true, ..options };
    assert!(S3Tree::new(client(), "b", TreePath::root(), &allowed).is_ok());
}

/// The server looks at no condition: what it says of the file in each answer has to do.
#[tokio::test]
async fn p1_a_changed_file_is_noticed_even_if_the_server_ignores_conditions() {
    for (no_etag, ignores_conditions) in [(false, false), (false, true), (true, false), (true, true)] {
        let server = OddServer::start();
        server.behave(Behaviour { no_etag, ignores_conditions, ..Behaviour::default() });
        server.put("f", pattern(50_000));
        let tree = http(&server.url());
        let old = version(&tree, "f").await;
        read(&tree, "f", range(0, 10_000), &old).await.expect("unchanged");
        server.put("f", vec![7; 50_000]);
        let got = read(&tree, "f", range(10_000, 20_000), &old).await;
        assert!(matches!(got, Err(Error::Changed { .. })), "{no_etag} {ignores_conditions}: {got:?}");
        server.put("f", vec![8; 100]);
        let got = read(&tree, "f", range(10_000, 20_000), &old).await;
        assert!(matches!(got, Err(Error::Changed { .. })), "shorter: {got:?}");
        let new = version(&tree, "f").await;
        assert_eq!(read(&tree, "f", range(0, 100), &new).await.expect("the new one"), [8; 100]);
    }
}

/// A cache in between asked within the second of the change, and has the old content under the new one's version.
#[tokio::test]
async fn p1_an_answer_that_a_cache_took_before_the_version_settled_is_not_read() {
    let server = OddServer::start();
    server.behave(Behaviour { etag_of_time: true, ..Behaviour::default() });
    let an_hour_ago = SystemTime::now() - Duration::from_secs(3600);
    server.put_at("f", vec![1; 1000], an_hour_ago);
    server.keep("f");
    server.put_at("f", vec![2; 1000], an_hour_ago);
    let tree = http(&server.url());
    let current = version(&tree, "f").await;
    assert!(current.is_settled);
    assert_eq!(read(&tree, "f", range(10, 20), &current).await.expect("the server has it"), [2; 10]);
    assert_eq!(
        server.requests(),
        ["HEAD /f", "GET /f", "GET /f"],
        "past the cache, once it had shown its age"
    );
}

#[tokio::test]
async fn p3_a_cut_connection_is_gone_on_with_where_it_broke() {
    let server = OddServer::start();
    server.put("f", pattern(100_000));
    let tree = http(&server.url());
    let version = version(&tree, "f").await;
    server.behave(Behaviour { cuts_after: Some(40_000), ..Behaviour::default() });
    let got = read(&tree, "f", range(0, 100_000), &version).await.expect("in three pieces");
    assert!(got == pattern(100_000));
    let gets = server.requests().iter().filter(|request| *request == "GET /f").count();
    assert_eq!(gets, 3);
}

#[tokio::test]
async fn a_server_without_ranges_gives_whole_files_and_else_a_clear_error() {
    let server = OddServer::start();
    server.behave(Behaviour { ignores_ranges: true, ..Behaviour::default() });
    server.put("f", pattern(1000));
    let tree = http(&server.url());
    let version = version(&tree, "f").await;
    assert_eq!(read(&tree, "f", range(0, 1000), &version).await.expect("whole"), pattern(1000));
    let error = read(&tree, "f", range(0, 10), &version).await.expect_err("a part");
    assert!(matches!(error, Error::RangeIgnored { .. }) && error.hint().is_some(), "{error:?}");
}

#[tokio::test]
async fn p3_a_bad_answer_does_not_turn_webdav_off_for_ever() {
    for (answer, pause_s) in [
        (Some("503 Service Unavailable"), 60),
        (Some("200 OK"), 60),
        (Some("400 Bad Request"), 60),
        (Some("501 Not Implemented"), 3600),
        (None, 3600),
    ] {
        let server = OddServer::start();
        server.put("f", b"1".to_vec());
        server.behave(Behaviour { answers_unknown: answer, ..Behaviour::default() });
        let tree = http(&server.url());
        let asked = || server.requests().iter().filter(|line| line.starts_with("PROPFIND")).count();
        for _ in 0..3 {
            assert_eq!(names(&tree, "").await, [("f".to_owned(), false)], "by its index: {answer:?}");
        }
        assert_eq!(asked(), 1, "once in a while: {answer:?}");
        for (advance_s, expected) in [(pause_s - 30, 1), (31, 2)] {
            tokio::time::pause();
            tokio::time::advance(Duration::from_secs(advance_s)).await;
            tokio::time::resume();
            names(&tree, "").await;
            assert_eq!(asked(), expected, "{answer:?}");
        }
    }
}

#[tokio::test]
async fn p3_a_server_that_has_listed_by_webdav_is_asked_so_again() {
    let server = OddServer::start();
    server.put("f", b"1".to_vec());
    let tree = http(&server.url());
    for answers_unknown in
        [Some("207 Multi-Status"), Some("405 Method Not Allowed"), Some("207 Multi-Status")]
    {
        server.behave(Behaviour { answers_unknown, ..Behaviour::default() });
        assert_eq!(names(&tree, "").await, [("f".to_owned(), false)], "{answers_unknown:?}");
    }
    let requests = server.requests();
    let asked = |method: &str| requests.iter().filter(|line| line.starts_with(method)).count();
    assert_eq!((asked("PROPFIND"), asked("GET")), (3, 1), "{requests:?}");
}

#[tokio::test]
async fn a_hostile_index_shows_only_children() {
    let server = OddServer::start();
    server.put("ok", b"1".to_vec());
    let page = "<a href=\"ok\"><a href=\"../up\"><a href=\"/etc/passwd\"><a href=\"%2e%2e/\"><a href=\"a/b\">\
        <a href=\"http://169.254.169.254/x\"><a href=\"..%2fx\"><a href=\"d/\">";
    server.page("sub/", page);
    let tree = http(&format!("{}sub/", server.url()));
    assert_eq!(names(&tree, "").await, [("d".to_owned(), true), ("ok".to_owned(), false)]);
    server.page("sub/", "{\"not\": \"an index\"}");
    assert_eq!(names(&tree, "").await, []);
}
