//! [`OddServer`]: a web server that does to files what real servers do only at the worst moment.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// How the server treats what it should not.
#[derive(Clone, Copy, Debug, Default)]
pub struct Behaviour {
    /// It sends no `ETag`.
    pub no_etag: bool,
    /// Its entity tags are made of time and length, as those of nginx are.
    pub etag_of_time: bool,
    /// It answers as if it had not seen `If-Match` and `If-Unmodified-Since`.
    pub ignores_conditions: bool,
    /// It answers 200 with everything to any range.
    pub ignores_ranges: bool,
    /// It cuts the connection after so many bytes of each body.
    pub cuts_after: Option<usize>,
    /// What it answers to a method that it does not know, with a page in HTML; else 405. With 207 it lists the one file `f`.
    pub answers_unknown: Option<&'static str>,
    /// What it answers to everything.
    pub refuses: Option<&'static str>,
    /// What it answers to an address with a query.
    pub answers_queries: Option<&'static str>,
    /// It stops for so long after the first byte of each body.
    pub delays_ms: u64,
}

/// A web server on the loopback whose files a test can replace at any moment.
#[derive(Clone, Debug)]
pub struct OddServer {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    files: BTreeMap<String, File>,
    /// What a cache in front answers to GET unless it is told not to, and how old it says that is, in seconds.
    kept: BTreeMap<String, (File, u64)>,
    /// Answered in place of an index.
    pages: BTreeMap<String, String>,
    behaviour: Behaviour,
    /// How it behaves to the next requests.
    passing: VecDeque<Behaviour>,
    requests: Vec<String>,
    puts: u64,
}

#[derive(Clone, Debug)]
struct File {
    bytes: Arc<Vec<u8>>,
    etag: String,
    modified: SystemTime,
}

impl File {
    /// What `ngx_http_set_etag()` in src/http/ngx_http_core_module.c (1.28) makes of it.
    fn etag_of_time(&self) -> String {
        let seconds = self.modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        format!("\"{seconds:x}-{:x}\"", self.bytes.len())
    }
}

impl OddServer {
    /// Starts a server without files.
    ///
    /// # Panics
    ///
    /// When the loopback has no port.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has ports");
        let address = listener.local_addr().expect("bound");
        let server = Self { address, shared: Arc::default() };
        let (accepting, shared) = (listener, Arc::clone(&server.shared));
        // Ends with the process: a test has few of them.
        std::thread::spawn(move || {
            for stream in accepting.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || drop(serve(&shared, stream)));
            }
        });
        server
    }

    /// The address of its root, with `/` at the end.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Puts a file in place of what was there, with a new entity tag and a later time.
    pub fn put(&self, path: &str, bytes: impl Into<Vec<u8>>) {
        let second = 1_000_000_001 + self.lock().puts;
        self.put_at(path, bytes, SystemTime::UNIX_EPOCH + Duration::from_secs(second));
    }

    /// Puts a file that was changed in the second of `modified`, with a new entity tag unless those are made of the time.
    pub fn put_at(&self, path: &str, bytes: impl Into<Vec<u8>>, modified: SystemTime) {
        // A server compares what it tells: seconds.
        let modified = httpdate::HttpDate::from(modified).into();
        let mut shared = self.lock();
        shared.puts += 1;
        let etag = format!("\"{}\"", shared.puts);
        shared.files.insert(path.to_owned(), File { bytes: Arc::new(bytes.into()), etag, modified });
    }

    /// Has a cache in front of the server keep the file that is at `path` now, as an answer of its first second.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn keep(&self, path: &str) {
        let mut shared = self.lock();
        let file = shared.files.get(path).expect("put before").clone();
        let age = SystemTime::now().duration_since(file.modified).unwrap_or_default().as_secs();
        shared.kept.insert(path.to_owned(), (file, age));
    }

    /// Answers a directory with this page.
    pub fn page(&self, path: &str, html: &str) {
        self.lock().pages.insert(path.to_owned(), html.to_owned());
    }

    /// Behaves so from now on.
    pub fn behave(&self, behaviour: Behaviour) {
        let mut shared = self.lock();
        shared.behaviour = behaviour;
        shared.passing.clear();
    }

    /// Behaves so to the next so many requests.
    pub fn behave_next(&self, requests: usize, behaviour: Behaviour) {
        self.lock().passing.extend(std::iter::repeat_n(behaviour, requests));
    }

    /// The request lines so far.
    pub fn requests(&self) -> Vec<String> {
        self.lock().requests.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn serve(shared: &Mutex<Shared>, stream: TcpStream) -> std::io::Result<()> {
    let mut out = stream.try_clone()?;
    let mut lines = BufReader::new(stream).lines();
    while let Some(first) = lines.next().transpose()? {
        let mut headers = BTreeMap::new();
        for line in lines.by_ref() {
            let line = line?;
            let Some((name, value)) = line.split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let mut words = first.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let answer = {
            let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
            shared.requests.push(format!("{method} {path}"));
            let behaviour = shared.passing.pop_front().unwrap_or(shared.behaviour);
            answer(&shared, behaviour, method, path.trim_start_matches('/'), &headers)
        };
        if !answer.send(&mut out, method == "HEAD")? {
            return Ok(());
        }
    }
    Ok(())
}

/// A listing by WebDAV of a directory that has one file.
const LISTING: &str = "<D:multistatus xmlns:D=\"DAV:\"><D:response><D:href>/f</D:href><D:propstat><D:prop>\
    <D:resourcetype/><D:getlastmodified>Sun, 06 Nov 1994 08:49:37 GMT</D:getlastmodified>\
    <D:getcontentlength>1</D:getcontentlength></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat>\
    </D:response></D:multistatus>";

struct Answer {
    status: &'static str,
    headers: String,
    body: Vec<u8>,
    behaviour: Behaviour,
}

fn answer(
    shared: &Shared,
    behaviour: Behaviour,
    method: &str,
    path: &str,
    headers: &BTreeMap<String, String>,
) -> Answer {
    let plain = |status, headers: &str, body: &str| Answer {
        status,
        headers: headers.to_owned(),
        body: body.as_bytes().to_vec(),
        behaviour: Behaviour::default(),
    };
    if let Some(status) = behaviour.refuses {
        return plain(status, "", "");
    }
    if !matches!(method, "GET" | "HEAD") {
        let status = behaviour.answers_unknown.unwrap_or("405 Method Not Allowed");
        let body = if status.starts_with("207") { LISTING } else { "<html>not now</html>" };
        return plain(status, "Content-Type: text/html\r\n", body);
    }
    if let Some(status) = behaviour.answers_queries.filter(|_| path.contains('?')) {
        return plain(status, "", "");
    }
    let kept = shared.kept.get(path).filter(|_| {
        method == "GET" && headers.get("cache-control").is_none_or(|control| control != "no-cache")
    });
    let current = || shared.files.get(path).map(|file| (file, String::new()));
    let found = kept.map(|(file, age)| (file, format!("Age: {age}\r\n"))).or_else(current);
    let Some((file, mut told)) = found else { return directory(shared, path, plain) };
    told += &format!("Last-Modified: {}\r\n", httpdate::fmt_http_date(file.modified));
    let etag = if behaviour.etag_of_time { file.etag_of_time() } else { file.etag.clone() };
    if !behaviour.no_etag {
        told += &format!("ETag: {etag}\r\n");
    }
    let refuses = headers.get("if-match").is_some_and(|expected| *expected != etag)
        || headers
            .get("if-unmodified-since")
            .is_some_and(|since| httpdate::parse_http_date(since).is_ok_and(|since| file.modified > since));
    if refuses && !behaviour.ignores_conditions {
        return plain("412 Precondition Failed", &told, "");
    }
    let size = file.bytes.len();
    let range = headers.get("range").filter(|_| !behaviour.ignores_ranges).and_then(|range| {
        let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse::<usize>().ok()?, last.parse::<usize>().ok()?.saturating_add(1).min(size)))
    });
    match range {
        Some((start, _)) if start >= size => plain("416 Range Not Satisfiable", &told, ""),
        Some((start, end)) => {
            told += &format!("Content-Range: bytes {start}-{}/{size}\r\n", end - 1);
            let body = file.bytes[start..end].to_vec();
            Answer { status: "206 Partial Content", headers: told, body, behaviour }
        }
        None => Answer { status: "200 OK", headers: told, body: file.bytes.to_vec(), behaviour },
    }
}

fn directory(shared: &Shared, path: &str, plain: impl Fn(&'static str, &str, &str) -> Answer) -> Answer {
    let html = "Content-Type: text/html; charset=utf-8\r\n";
    if let Some(page) = shared.pages.get(path) {
        return plain("200 OK", html, page);
    }
    let slashed = if path.is_empty() || path.ends_with('/') { path.to_owned() } else { format!("{path}/") };
    let children: std::collections::BTreeSet<&str> = shared
        .files
        .keys()
        .filter_map(|key| key.strip_prefix(&slashed))
        .map(|rest| rest.find('/').map_or(rest, |slash| &rest[..=slash]))
        .collect();
    if children.is_empty() && !path.is_empty() {
        return plain("404 Not Found", "", "");
    }
    if slashed != path {
        return plain("301 Moved Permanently", &format!("Location: /{slashed}\r\n"), "");
    }
    let links: String = children.iter().map(|name| format!("<a href=\"{name}\">{name}</a>\n")).collect();
    plain("200 OK", html, &format!("<html><a href=\"../\">../</a>{links}</html>"))
}

impl Answer {
    /// Sends it; returns whether the connection can go on.
    fn send(self, out: &mut TcpStream, is_head: bool) -> std::io::Result<bool> {
        let length = self.body.len();
        let date = httpdate::fmt_http_date(SystemTime::now());
        let head = format!(
            "HTTP/1.1 {}\r\nDate: {date}\r\nContent-Length: {length}\r\n{}\r\n",
            self.status, self.headers
        );
        out.write_all(head.as_bytes())?;
        if is_head {
            return Ok(true);
        }
        if self.behaviour.delays_ms > 0 && length > 0 {
            out.write_all(&self.body[..1])?;
            std::thread::sleep(Duration::from_millis(self.behaviour.delays_ms));
            out.write_all(&self.body[1..])?;
            return Ok(true);
        }
        match self.behaviour.cuts_after {
            Some(bytes) if bytes < length => {
                out.write_all(&self.body[..bytes])?;
                out.shutdown(std::net::Shutdown::Both)?;
                Ok(false)
            }
            _ => out.write_all(&self.body).map(|()| true),
        }
    }
}
