//! `larder serve`: the registry as a client sees it, through the real binary.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

struct Fixture {
    directory: TempDir,
    blob: Vec<u8>,
    blob_digest: String,
    manifest: Vec<u8>,
    manifest_digest: String,
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn put(root: &Path, bytes: &[u8]) -> String {
    let digest = digest(bytes);
    let path = root.join("blobs/sha256").join(digest.trim_start_matches("sha256:"));
    fs::write(path, bytes).expect("a blob can be written");
    digest
}

/// A layout with one blob of `len` bytes and one manifest, tagged `v1`.
fn layout(len: u32) -> Fixture {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let root = directory.path();
    fs::create_dir_all(root.join("blobs/sha256")).expect("directories can be made");
    fs::write(root.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("a file can be written");
    let blob: Vec<u8> = (0..len)
        .flat_map(|n| (n.wrapping_mul(2_654_435_761) >> 24).to_be_bytes().into_iter().last())
        .collect();
    let blob_digest = put(root, &blob);
    let manifest =
        format!(r#"{{"schemaVersion":2,"mediaType":"{MANIFEST_TYPE}","config":{{}},"layers":[]}}"#)
            .into_bytes();
    let manifest_digest = put(root, &manifest);
    let index = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": MANIFEST_TYPE,
            "digest": manifest_digest,
            "size": manifest.len(),
            "annotations": { "org.opencontainers.image.ref.name": "v1" },
        }],
    });
    fs::write(root.join("index.json"), index.to_string()).expect("a file can be written");
    Fixture { directory, blob, blob_digest, manifest, manifest_digest }
}

/// The running command; killed when dropped.
struct Serving {
    child: Child,
    address: String,
}

fn serve(fixture: &Fixture, more: &[&str]) -> Serving {
    let mut child = Command::new(env!("CARGO_BIN_EXE_larder"))
        .args(["serve", "--listen", "127.0.0.1:0"])
        .args(more)
        .arg(fixture.directory.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("standard output is a pipe");
    BufReader::new(stdout).read_line(&mut line).expect("it says where it listens");
    let address = line.split("http://").nth(1).and_then(|rest| rest.split_whitespace().next());
    let address = address.unwrap_or_else(|| panic!("no address in {line:?}")).to_owned();
    Serving { child, address }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    fn code(&self) -> String {
        let body: serde_json::Value = serde_json::from_slice(&self.body).expect("an error is JSON");
        body["errors"][0]["code"].as_str().expect("an error has a code").to_owned()
    }
}

impl Serving {
    fn ask(&self, method: &str, path: &str, headers: &str) -> Answer {
        let mut stream = TcpStream::connect(&self.address).expect("the registry listens");
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n{headers}\r\n",
            self.address
        );
        stream.write_all(request.as_bytes()).expect("a request can be sent");
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("an answer comes");
        let split = all.windows(4).position(|four| four == b"\r\n\r\n").expect("an answer has a head");
        let head = String::from_utf8_lossy(&all[..split]).into_owned();
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
        Answer { status, head, body: all.split_off(split + 4) }
    }

    fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "")
    }
}

#[test]
fn manifests_come_by_tag_and_by_digest_under_any_name() {
    let fixture = layout(100);
    let registry = serve(&fixture, &[]);
    assert_eq!(registry.get("/v2/").status, 200);
    for reference in ["v1", &fixture.manifest_digest] {
        for name in ["image", "a/b/c"] {
            let answer = registry.get(&format!("/v2/{name}/manifests/{reference}"));
            assert_eq!(answer.status, 200);
            assert_eq!(answer.body, fixture.manifest);
            assert_eq!(answer.header("content-type"), Some(MANIFEST_TYPE));
            assert_eq!(answer.header("docker-content-digest"), Some(fixture.manifest_digest.as_str()));
        }
    }
    let tags = registry.get("/v2/image/tags/list");
    assert_eq!(String::from_utf8_lossy(&tags.body), r#"{"name":"image","tags":["v1"]}"#);
}

#[test]
fn a_blob_comes_whole_or_by_one_range() {
    let fixture = layout(300_000);
    let registry = serve(&fixture, &[]);
    let path = format!("/v2/image/blobs/{}", fixture.blob_digest);
    let len = fixture.blob.len();

    let whole = registry.get(&path);
    assert_eq!((whole.status, whole.body == fixture.blob), (200, true));
    assert_eq!(whole.header("accept-ranges"), Some("bytes"));
    assert_eq!(whole.header("docker-content-digest"), Some(fixture.blob_digest.as_str()));

    for (range, start, end) in
        [("0-0", 0, 1), ("1000-200000", 1000, 200_001), ("299999-", 299_999, len), ("-10", len - 10, len)]
    {
        let part = registry.ask("GET", &path, &format!("range: bytes={range}\r\n"));
        assert_eq!(part.status, 206, "{range}");
        assert_eq!(part.body, &fixture.blob[start..end], "{range}");
        let expected = format!("bytes {start}-{}/{len}", end - 1);
        assert_eq!(part.header("content-range"), Some(expected.as_str()));
        assert_eq!(part.header("content-length"), Some((end - start).to_string().as_str()));
    }

    let outside = registry.ask("GET", &path, &format!("range: bytes={len}-\r\n"));
    assert_eq!(outside.status, 416);
    assert_eq!(outside.header("content-range"), Some(format!("bytes */{len}").as_str()));
}

#[test]
fn head_says_what_get_would_send() {
    let fixture = layout(5000);
    let registry = serve(&fixture, &[]);
    let head =
        registry.ask("HEAD", &format!("/v2/image/blobs/{}", fixture.blob_digest), "range: bytes=0-9\r\n");
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), Some("5000"));
    let head = registry.ask("HEAD", "/v2/image/manifests/v1", "");
    assert_eq!(head.header("content-length"), Some(fixture.manifest.len().to_string().as_str()));
    assert_eq!(head.header("docker-content-digest"), Some(fixture.manifest_digest.as_str()));
}

#[test]
fn what_is_wrong_or_missing_gets_the_error_of_the_distribution_spec() {
    let fixture = layout(10);
    let registry = serve(&fixture, &[]);
    let missing = digest(b"missing");
    for (method, path, status, code) in [
        ("GET", format!("/v2/image/blobs/{missing}"), 404, "BLOB_UNKNOWN"),
        ("GET", format!("/v2/image/manifests/{missing}"), 404, "MANIFEST_UNKNOWN"),
        ("GET", "/v2/image/manifests/v2".to_owned(), 404, "MANIFEST_UNKNOWN"),
        ("GET", format!("/v2/image/manifests/{}", fixture.blob_digest), 404, "MANIFEST_UNKNOWN"),
        ("GET", format!("/v2/IMAGE/blobs/{missing}"), 400, "NAME_INVALID"),
        ("GET", "/v2/image/blobs/sha256:0".to_owned(), 400, "DIGEST_INVALID"),
        ("PUT", "/v2/image/manifests/v1".to_owned(), 405, "UNSUPPORTED"),
        ("GET", "/metrics".to_owned(), 404, "UNSUPPORTED"),
    ] {
        let answer = registry.ask(method, &path, "");
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{method} {path}");
    }
}

#[test]
fn nothing_outside_the_blobs_can_be_read() {
    let fixture = layout(10);
    let root = fixture.directory.path();
    fs::write(root.join("secret"), "secret").expect("a file can be written");
    let hex = "ab".repeat(32);
    std::os::unix::fs::symlink("../../secret", root.join("blobs/sha256").join(&hex))
        .expect("a link can be made");
    fs::create_dir(root.join("blobs/sha256").join("cd".repeat(32))).expect("a directory can be made");
    let registry = serve(&fixture, &[]);
    for path in [
        format!("/v2/image/blobs/sha256:{hex}"),
        format!("/v2/image/blobs/sha256:{}", "cd".repeat(32)),
        "/v2/image/blobs/sha256:../../secret".to_owned(),
        "/v2/image/blobs/../../secret".to_owned(),
        "/v2/../../secret".to_owned(),
        "/v2/image/manifests/..%2f..%2fsecret".to_owned(),
        "//secret".to_owned(),
    ] {
        let answer = registry.get(&path);
        assert!(matches!(answer.status, 400 | 404), "{path}: {}", answer.status);
        assert!(!answer.body.windows(6).any(|six| six == b"secret"), "{path}");
    }
}

#[test]
fn half_the_bandwidth_takes_twice_the_time_and_readers_share_it() {
    let fixture = layout(1_000_000);
    let path = format!("/v2/image/blobs/{}", fixture.blob_digest);
    let time = |rate: &str, readers: usize| {
        let registry = serve(&fixture, &["--bandwidth", rate]);
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..readers {
                scope.spawn(|| assert_eq!(registry.get(&path).body.len(), 1_000_000));
            }
        });
        begun.elapsed().as_secs_f64()
    };
    let (one, half, two) = (time("4MB/s", 1), time("2MB/s", 1), time("4MB/s", 2));
    assert!((1.6..2.6).contains(&(half / one)), "half the bandwidth: {half} s to {one} s");
    assert!((1.6..2.6).contains(&(two / one)), "two readers: {two} s to {one} s");
}

#[test]
fn a_round_trip_is_waited_for_by_the_connection_and_by_each_request() {
    let fixture = layout(10);
    let registry = serve(&fixture, &["--latency", "100ms"]);
    let begun = Instant::now();
    assert_eq!(registry.get("/v2/").status, 200);
    assert!(begun.elapsed() >= Duration::from_millis(200), "{:?}", begun.elapsed());
}

#[test]
fn a_signal_stops_it_and_it_says_what_it_sent() {
    let fixture = layout(10);
    let mut registry = serve(&fixture, &[]);
    assert_eq!(registry.get("/v2/").status, 200);
    let pid = rustix::process::Pid::from_child(&registry.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it can be signalled");
    let status = registry.child.wait().expect("it ends");
    assert!(status.success(), "{status}");
    let mut said = String::new();
    let mut stderr = registry.child.stderr.take().expect("standard error is a pipe");
    stderr.read_to_string(&mut said).expect("it is text");
    assert!(said.contains("sent 2 B in 1 requests over 1 connections"), "{said}");
}

#[test]
fn a_directory_that_is_no_layout_and_an_address_in_use_are_clear_errors() {
    let empty = tempfile::tempdir().expect("a temporary directory");
    let run = |args: &[&str], directory: &Path| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_larder")).arg("serve").args(args).arg(directory).output();
        let output = output.expect("the program runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = run(&["--listen", "127.0.0.1:0"], empty.path());
    assert_eq!(code, Some(1));
    assert!(said.contains("oci-layout: cannot be read") && said.contains("hint: "), "{said}");

    let fixture = layout(10);
    let registry = serve(&fixture, &[]);
    let (code, said) = run(&["--listen", &registry.address], fixture.directory.path());
    assert_eq!(code, Some(1));
    assert!(said.contains("cannot listen there") && said.contains("--listen"), "{said}");

    let (code, said) = run(&["--bandwidth", "200"], fixture.directory.path());
    assert_eq!(code, Some(2));
    assert!(said.contains("200mbit"), "{said}");
}
