//! [`Moto`]: a real S3 server, moto's, from the Python package index.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::process::{Process, free_address};

/// A real S3 server on the loopback; dropping it ends it. It takes any credentials.
#[derive(Debug)]
pub struct Moto {
    address: SocketAddr,
    _process: Process,
}

impl Moto {
    /// Starts the server; the first time on a host it is installed into a virtual environment in the user's cache
    /// directory. An error says what this host lacks for it.
    ///
    /// # Errors
    ///
    /// When it is not there and cannot be installed.
    ///
    /// # Panics
    ///
    /// When it is there and does not start.
    pub fn start() -> Result<Self, String> {
        let program = install()?;
        let address = free_address();
        let mut command = Command::new(program);
        command.args(["-H", "127.0.0.1", "-p", &address.port().to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = Process::start(&mut command, address);
        Ok(Self { address, _process: process })
    }

    /// What `AWS_ENDPOINT_URL` has to be.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Makes a bucket, or an object `BUCKET/KEY`.
    ///
    /// # Panics
    ///
    /// When the server does not take it.
    pub fn put(&self, path: &str, body: &[u8]) {
        let head = format!(
            "PUT /{path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\nConnection: close\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential=test/20300101/us-east-1/s3/aws4_request, \
             SignedHeaders=host, Signature=0\r\n\r\n",
            self.address,
            body.len()
        );
        let mut stream = TcpStream::connect(self.address).expect("it runs");
        stream.write_all(&[head.as_bytes(), body].concat()).expect("it takes it");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    }
}

/// Where moto's server lies, installed if need be; one process at a time does that.
fn install() -> Result<PathBuf, String> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let dir = cache.or_else(home).ok_or("no cache directory")?.join("larder-tests");
    let failed = |what: &str, why: &dyn std::fmt::Display| format!("moto's S3 server: {what}: {why}");
    fs::create_dir_all(&dir).map_err(|error| failed("its directory", &error))?;
    let lock = fs::File::create(dir.join("moto.lock")).map_err(|error| failed("its lock", &error))?;
    lock.lock().map_err(|error| failed("its lock", &error))?;
    let program = dir.join("moto/bin/moto_server");
    if program.is_file() {
        return Ok(program);
    }
    let run = |program: &Path, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
        let output = output.map_err(|error| failed(&program.display().to_string(), &error))?;
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.success() { Ok(()) } else { Err(failed(&arguments.join(" "), &said.trim())) }
    };
    let environment = dir.join("moto");
    run(Path::new("python3"), &["-m", "venv", &environment.to_string_lossy()])?;
    run(&environment.join("bin/pip"), &["install", "--quiet", "moto[server]"])?;
    Ok(program)
}
