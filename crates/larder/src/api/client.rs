//! [`Client`]: the commands' side of the control API.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::cache_types::{
    CacheStats, DiskUse, ListRequest, PinRequest, Pinned, PruneRequest, Pruned, VerifyRequest,
};
use super::lines::Lines;
use super::types::{
    Mount, MountRequest, Records, ReplaceRequest, Replacing, Status, StopRequest, TraceRequest, UmountRequest,
};
use super::{BODY_BYTES_MAX, routes};
use crate::errors::{Kind, Report, Told, tell};
use crate::paths::Paths;

/// How long a running daemon may take to accept: a worker that restarts leaves callers in the queue.
const CONNECT_DEADLINE: Duration = Duration::from_secs(20);

/// A caller of the daemon at one socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the daemon that serves `paths`; no connection is made yet.
    pub fn new(paths: &Paths) -> Self {
        Self { socket: paths.socket() }
    }

    /// Whether a daemon listens: a worker that is being restarted counts.
    pub async fn is_running(&self) -> bool {
        UnixStream::connect(&self.socket).await.is_ok()
    }

    /// The daemon, its mounts, its blobs.
    ///
    /// # Errors
    ///
    /// When no daemon runs, or it fails.
    pub async fn status(&self) -> anyhow::Result<Status> {
        self.call(Method::GET, routes::STATUS, &()).await
    }

    /// Mounts an image.
    ///
    /// # Errors
    ///
    /// When no daemon runs, or what kept it from mounting.
    pub async fn mount(&self, request: &MountRequest) -> anyhow::Result<Mount> {
        self.call(Method::POST, routes::MOUNTS, request).await
    }

    /// Unmounts.
    ///
    /// # Errors
    ///
    /// When no daemon runs, or what kept it from unmounting.
    pub async fn umount(&self, request: &UmountRequest) -> anyhow::Result<()> {
        self.call(Method::DELETE, routes::MOUNTS, request).await
    }

    /// What was fetched for the mount `id`, in which order, and who waited for it.
    ///
    /// # Errors
    ///
    /// When no daemon runs, or the mount is not there.
    pub async fn records(&self, id: &str) -> anyhow::Result<Records> {
        self.call(Method::GET, &routes::RECORDS.replace("{id}", id), &()).await
    }

    /// Has another program take over. Returns when the daemon has agreed, which is before it serves.
    ///
    /// # Errors
    ///
    /// When no daemon runs, or what keeps it from making way.
    pub async fn replace(&self, request: &ReplaceRequest) -> anyhow::Result<Replacing> {
        self.call(Method::POST, routes::REPLACE, request).await
    }

    /// Ends the daemon: it unmounts everything first. Returns when it has agreed, which is before it has ended.
    ///
    /// # Errors
    ///
    /// When no daemon runs, or a mount is in use.
    pub async fn stop(&self, request: &StopRequest) -> anyhow::Result<()> {
        self.call(Method::POST, routes::STOP, request).await
    }

    /// Every object of the cache, a line each.
    ///
    /// # Errors
    ///
    /// When no daemon runs, or it fails.
    pub async fn cache_objects(&self, request: &ListRequest) -> anyhow::Result<Lines> {
        self.lines(Method::POST, routes::CACHE_OBJECTS, request).await
    }

    /// What the cache takes.
    ///
    /// # Errors
    ///
    /// When no daemon runs, or it fails.
    pub async fn cache_usage(&self) -> anyhow::Result<DiskUse> {
        self.call(Method::GET, routes::CACHE_USAGE, &()).await
    }

    /// What happened to the cache since the worker started, and how full it is.
    ///
    /// # Errors
    ///
    /// When no daemon runs, or it fails.
    pub async fn cache_stats(&self) -> anyhow::Result<CacheStats> {
        self.call(Method::GET, routes::CACHE_STATS, &()).await
    }

    /// Removes what nobody uses.
    ///
    /// # Errors
    ///
    /// When no daemon runs, or it fails.
    pub async fn cache_prune(&self, request: &PruneRequest) -> anyhow::Result<Pruned> {
        self.call(Method::POST, routes::CACHE_PRUNE, request).await
    }

    /// Keeps something from being culled, or no longer.
    ///
    /// # Errors
    ///
    /// When no daemon runs, or it has nothing of that name.
    pub async fn cache_pin(&self, request: &PinRequest) -> anyhow::Result<Pinned> {
        self.call(Method::POST, routes::CACHE_PIN, request).await
    }

    /// Reads what is present again: a line for each step.
    ///
    /// # Errors
    ///
    /// When no daemon runs, or it fails.
    pub async fn cache_verify(&self, request: &VerifyRequest) -> anyhow::Result<Lines> {
        self.lines(Method::POST, routes::CACHE_VERIFY, request).await
    }

    /// Begins to listen to trace events.
    ///
    /// # Errors
    ///
    /// When no daemon runs, or it refuses.
    pub async fn trace(&self, request: &TraceRequest) -> anyhow::Result<Lines> {
        self.lines(Method::POST, routes::TRACE, request).await
    }

    /// Calls an endpoint whose answer goes on.
    async fn lines<A: Serialize>(&self, method: Method, path: &str, body: &A) -> anyhow::Result<Lines> {
        let (answer, connection) = self.send(method, path, body).await?;
        if answer.status().is_success() {
            return Ok(Lines::new(answer.into_body(), connection));
        }
        let status = answer.status();
        let body = Limited::new(answer.into_body(), BODY_BYTES_MAX).collect().await;
        let body = body.map_err(anyhow::Error::from_boxed).with_context(lost)?.to_bytes();
        Err(refused(status, &body))
    }

    async fn call<A: Serialize, B: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &A,
    ) -> anyhow::Result<B> {
        let (answer, connection) = self.send(method, path, body).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), BODY_BYTES_MAX).collect().await;
        let body = body.map_err(anyhow::Error::from_boxed).with_context(lost)?.to_bytes();
        drop(connection);
        if status.is_success() {
            return serde_json::from_slice(&body).context("the daemon's answer cannot be understood");
        }
        Err(refused(status, &body))
    }

    async fn send<A: Serialize>(
        &self,
        method: Method,
        path: &str,
        body: &A,
    ) -> anyhow::Result<(Response<Incoming>, Connection)> {
        let stream = self.connect().await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.with_context(lost)?;
        let connection = Connection(tokio::spawn(async move { drop(connection.await) }));
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, "larder")
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(serde_json::to_vec(body)?)))?;
        let answer = sender.send_request(request).await.with_context(lost)?;
        Ok((answer, connection))
    }

    async fn connect(&self) -> anyhow::Result<UnixStream> {
        let stream = tokio::time::timeout(CONNECT_DEADLINE, UnixStream::connect(&self.socket)).await;
        match stream.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(stream) => Ok(stream),
            Err(error) => {
                let told = no_daemon(&self.socket, error.kind());
                Err(anyhow::Error::new(error).context(told))
            }
        }
    }
}

/// The task that drives a connection; it ends with this.
pub struct Connection(tokio::task::JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a caller is told whose daemon did not answer.
const LOST: &str = "the daemon went away before it answered";

/// Whether an error is that of a call that was not answered: whether it was heard is not known.
pub fn is_lost(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Told>().is_some_and(|told| told.to_string() == LOST)
}

pub(super) fn lost() -> Told {
    tell(Kind::Failed, LOST, "try again; `larder status` tells how it is")
}

fn refused(status: StatusCode, body: &[u8]) -> anyhow::Error {
    let report: Report = serde_json::from_slice(body).unwrap_or_else(|_| Report {
        error: format!("the daemon answered {status}"),
        hint: Some("the daemon may be of another version: `larder daemon --stop` ends it".to_owned()),
        ..Report::default()
    });
    report.into_error()
}

fn no_daemon(socket: &Path, why: io::ErrorKind) -> Told {
    if why == io::ErrorKind::PermissionDenied {
        return tell(
            Kind::Failed,
            format!("{}: belongs to a daemon of another user", socket.display()),
            "run this as its owner or as root, or name your own place with --root DIR",
        );
    }
    tell(
        Kind::NotFound,
        format!("{}: no daemon answers", socket.display()),
        "`larder mount` and `larder daemon --detach` start one; a daemon with another --root has another socket",
    )
}
