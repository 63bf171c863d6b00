//! A cold sequential read of a large file over a shaped link, against a plain download of the same blob.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::Value;

use super::larder::{Larder, Registry, text};
use super::stats::{Row, Target, megabytes_a_second};
use super::warm::{random_file, read_through};

const FILE_BYTES: u64 = 256 << 20;
/// 200 Mbit/s.
const LINK_BYTES_A_SECOND: f64 = 25e6;

/// Runs the benchmark once: it takes the link some ten seconds each way, and the link's pace is exact.
pub fn run(binary: &Path, dir: &Path) -> anyhow::Result<Vec<Row>> {
    let tree = dir.join("tree");
    std::fs::create_dir(&tree)?;
    random_file(&tree.join("file"), FILE_BYTES)?;
    let layout = dir.join("layout");
    let larder = Larder::new(binary, dir);
    larder.run(&["build", &format!("dir:{}", text(&tree)?), &format!("oci:{}:bench", text(&layout)?)])?;
    let registry = Registry::start(binary, &layout, &["--latency", "20ms", "--bandwidth", "200mbit"])?;
    let target = dir.join("larder");
    larder.mount(&format!("{}/bench:bench", registry.host), &target)?;
    let took = read_through(&target.join("file"))?;
    let (bytes, download) = download(&registry.host, &largest_layer(&layout)?)?;
    let status = larder.status()?;
    let ours = megabytes_a_second(FILE_BYTES, took);
    Ok(vec![
        Row {
            name: "cold sequential read, share of the link".into(),
            larder: format!("{ours:.1} MB/s"),
            peer: format!("{:.1} MB/s", megabytes_a_second(bytes, download)),
            figure: ours * 1e6 / LINK_BYTES_A_SECOND,
            target: Target::AtLeast(0.9),
        },
        memory("worker, resident after it (MB)", &status["worker"], 40.0),
        memory("keeper, resident after it (MB)", &status["keeper"], 4.0),
    ])
}

fn memory(name: &str, process: &Value, limit: f64) -> Row {
    let megabytes = process["resident_bytes"].as_f64().unwrap_or(f64::NAN) / 1e6;
    Row {
        name: name.into(),
        larder: format!("{megabytes:.1} MB"),
        peer: "-".into(),
        figure: megabytes,
        target: Target::AtMost(limit),
    }
}

/// The digest of the largest file among the layout's blobs.
fn largest_layer(layout: &Path) -> anyhow::Result<String> {
    let mut largest = (0, String::new());
    for entry in std::fs::read_dir(layout.join("blobs/sha256"))? {
        let entry = entry?;
        let name = entry.file_name().into_string().ok().context("a blob's name is not UTF-8")?;
        largest = largest.max((entry.metadata()?.len(), name));
    }
    Ok(format!("sha256:{}", largest.1))
}

/// Fetches a whole blob, the way a container engine does.
fn download(host: &str, digest: &str) -> anyhow::Result<(u64, Duration)> {
    let start = Instant::now();
    let mut stream = TcpStream::connect(host)?;
    write!(stream, "GET /v2/bench/blobs/{digest} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut buffer = vec![0; 256 << 10];
    let mut bytes = 0;
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok((bytes, start.elapsed())),
            len => bytes += len as u64,
        }
    }
}
