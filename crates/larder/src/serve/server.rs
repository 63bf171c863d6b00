//! [`Server`]: the listener, on a thread of its own.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{Semaphore, oneshot};

use super::answer::Service;
use super::layout::Layout;
use super::link::Link;
use super::traffic::{Counters, Traffic};

/// Connections open at once; more wait in the listener's queue.
const CONNECTIONS_MAX: usize = 512;
/// A client that opens a connection and asks nothing for so long loses it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// A client that takes nothing of an answer for so long loses the connection.
const STALLED_MILLIS_MAX: u32 = 60_000;
/// How long to wait after an `accept` that failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A registry that is running; dropping it stops it.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    counters: Arc<Counters>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The address cannot be listened on.
    #[error("{address}: cannot listen there")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// The cause below.
        #[source]
        source: io::Error,
    },
    /// The thread or its runtime could not be made.
    #[error("the server's thread cannot be started")]
    Thread(#[source] io::Error),
}

impl ServerError {
    /// What the operator can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Listen { .. } => Some("choose another address with --listen, for example 127.0.0.1:0"),
            Self::Thread(_) => None,
        }
    }
}

impl Server {
    /// Serves `layout` over `link` at `address`; port 0 takes a free one. Returns when the address is listened on.
    ///
    /// # Errors
    ///
    /// [`ServerError`] when the address is taken or not ours, or no thread can be started.
    pub fn start(layout: Layout, link: Link, address: SocketAddr) -> Result<Self, ServerError> {
        let listen = |source| ServerError::Listen { address, source };
        let listener = TcpListener::bind(address).map_err(listen)?;
        listener.set_nonblocking(true).map_err(listen)?;
        let bound = listener.local_addr().map_err(listen)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(ServerError::Thread)?;
        let counters = Arc::<Counters>::default();
        let service = Arc::new(Service { layout, link, counters: Arc::clone(&counters) });
        let (stop, stopped) = oneshot::channel();
        let run = move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    () = accept(listener, service) => {}
                }
            });
            runtime.shutdown_background();
        };
        let thread =
            std::thread::Builder::new().name("serve".to_owned()).spawn(run).map_err(ServerError::Thread)?;
        Ok(Self { address: bound, counters, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has sent so far.
    pub fn traffic(&self) -> Traffic {
        self.counters.look()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nobody listens any more when the thread has ended: that is what is wanted.
        let _ = self.stop.take().map(|stop| stop.send(()));
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("serve_thread_panicked");
        }
    }
}

async fn accept(listener: TcpListener, service: Arc<Service>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "serve_listen"),
    };
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let service = Arc::clone(&service);
                tokio::spawn(async move {
                    if let Err(error) = connection(stream, service).await {
                        tracing::debug!(%peer, %error, "serve_connection_ended");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "serve_accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: tokio::net::TcpStream, service: Arc<Service>) -> Result<(), hyper::Error> {
    service.counters.connection();
    // Without it the last small piece of a body waits for the client's delayed acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "serve_nodelay");
    }
    // A client that takes nothing any more is hung up on: it would keep others out.
    if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(&stream, STALLED_MILLIS_MAX) {
        tracing::debug!(%error, "serve_user_timeout");
    }
    service.link.round_trip().await;
    let answer = service_fn(|request| {
        let service = Arc::clone(&service);
        async move { Ok::<_, std::convert::Infallible>(service.answer(request).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), answer)
        .await
}
