//! [`OwnerOnly`]: a listener that hears its own user and root, nobody else.

use std::time::Duration;

use axum::serve::Listener;
use rustix::process::getuid;
use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};

/// How long to wait when the process is out of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// A Unix listener that drops connections of other users: the socket's mode says the same, this does not depend on it.
pub struct OwnerOnly(pub UnixListener);

impl Listener for OwnerOnly {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            match self.0.accept().await {
                Ok((stream, address)) if is_ours(&stream) => return (stream, address),
                Ok(_) => tracing::warn!("api_refused: the caller is another user"),
                Err(error) => {
                    tracing::warn!(%error, "api_accept");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.0.local_addr()
    }
}

fn is_ours(stream: &UnixStream) -> bool {
    // SO_PEERCRED: who called connect(2), as the kernel saw it then.
    stream.peer_cred().is_ok_and(|caller| caller.uid() == getuid().as_raw() || caller.uid() == 0)
}
