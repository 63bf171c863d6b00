//! One connection to the registry, and whole blobs over it.

use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use larder_image::Digest;
use larder_image::digest::Hasher;
use tokio::net::TcpStream;

/// A connection that asks one thing after the other, as engines do for each layer.
pub(super) struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    host: String,
}

impl Connection {
    pub(super) async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream =
            TcpStream::connect(address).await.with_context(|| format!("{address}: cannot connect"))?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { sender, host: address.to_string() })
    }

    /// Fetches `path` into `file`; `came` is told of every piece.
    pub(super) async fn fetch(
        &mut self,
        path: &str,
        file: &Path,
        expected: &Digest,
        came: &dyn Fn(usize),
    ) -> anyhow::Result<()> {
        let place = || format!("{path}: cannot be fetched");
        let mut body = self.get(path).await.with_context(place)?;
        let mut out =
            File::create_new(file).with_context(|| format!("{}: cannot be created", file.display()))?;
        let mut hasher = Hasher::default();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.with_context(place)?.into_data() else { continue };
            hasher.update(&data);
            out.write_all(&data).with_context(|| format!("{}: cannot be written", file.display()))?;
            came(data.len());
        }
        let found = hasher.finish();
        anyhow::ensure!(found == *expected, "{path}: has digest {found}");
        Ok(())
    }

    async fn get(&mut self, path: &str) -> anyhow::Result<Incoming> {
        let request = Request::get(path).header(http::header::HOST, &self.host).body(Empty::new())?;
        self.sender.ready().await?;
        let answer = self.sender.send_request(request).await?;
        anyhow::ensure!(answer.status() == StatusCode::OK, "the registry answered {}", answer.status());
        Ok(answer.into_body())
    }
}
