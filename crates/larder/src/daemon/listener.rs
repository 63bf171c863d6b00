//! The control socket: made once, kept by the keeper, so that callers queue while a worker is started again.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use anyhow::Context as _;
use larder_mount::keeper::Holder;
use rustix::net::sockopt::socket_acceptconn;

use crate::errors::{Kind, told};

/// What the keeper calls it.
pub const NAME: &str = "listener";

/// Takes the listener that an earlier worker left with `keeper`, or makes one.
///
/// # Errors
///
/// When another daemon answers on the path, or the socket cannot be made.
pub fn take_or_bind(path: &Path, keeper: &dyn Holder) -> anyhow::Result<UnixListener> {
    let kept = keeper.take(NAME).context("the control socket cannot be had from the keeper")?;
    let listener = match kept {
        // On anything else no caller would ever be answered.
        Some(kept) if socket_acceptconn(&kept).unwrap_or(false) => UnixListener::from(kept),
        Some(_) => {
            tracing::warn!("what was kept as the control socket is none: another one is made");
            bind(path)?
        }
        None => bind(path)?,
    };
    listener.set_nonblocking(true)?;
    keeper.keep(NAME, listener.as_fd()).context("the keeper does not keep the control socket")?;
    Ok(listener)
}

fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    let place = || format!("{}: the control socket cannot be made", path.display());
    if UnixStream::connect(path).is_ok() {
        return Err(told(
            Kind::Conflict,
            format!("{}: a daemon answers here already", path.display()),
            "`larder status` shows it",
        ));
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).with_context(place),
        _ => {}
    }
    // Nobody else can reach it before the mode is set: its directory is ours alone.
    let listener = UnixListener::bind(path).with_context(place)?;
    fs::set_permissions(path, Permissions::from_mode(0o600)).with_context(place)?;
    Ok(listener)
}

/// Takes the socket away for good: callers are told that no daemon is there.
pub fn remove(path: &Path, keeper: &dyn Holder) {
    drop(fs::remove_file(path));
    keeper.release(NAME);
}

#[cfg(test)]
mod tests {
    use std::os::fd::{BorrowedFd, OwnedFd};

    use larder_mount::keeper::NoKeeper;

    use super::*;

    /// Has kept something under every name.
    struct Muddled(UnixStream);

    impl Holder for Muddled {
        fn keep(&self, _: &str, _: BorrowedFd<'_>) -> io::Result<()> {
            Ok(())
        }

        fn take(&self, _: &str) -> io::Result<Option<OwnedFd>> {
            self.0.try_clone().map(|fd| Some(fd.into()))
        }

        fn release(&self, _: &str) {}

        fn names(&self) -> Vec<String> {
            vec![NAME.to_owned()]
        }
    }

    #[test]
    fn what_was_kept_and_does_not_listen_is_replaced() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let path = temp.path().join("sock");
        let (muddled, _other) = UnixStream::pair().expect("two sockets");
        let listener = take_or_bind(&path, &Muddled(muddled)).expect("a new one is made");
        UnixStream::connect(&path).expect("somebody listens");
        drop(listener);
    }

    #[test]
    fn a_socket_left_by_a_dead_daemon_is_replaced_and_a_living_one_is_not() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let path = temp.path().join("sock");
        drop(UnixListener::bind(&path).expect("it can be bound"));
        let listener = take_or_bind(&path, &NoKeeper).expect("nobody listens there");
        assert_eq!(fs::metadata(&path).expect("it exists").permissions().mode() & 0o777, 0o600);
        let error = take_or_bind(&path, &NoKeeper).expect_err("somebody listens there");
        assert!(error.to_string().contains("answers here already"), "{error}");
        drop(listener);
        remove(&path, &NoKeeper);
        assert!(!path.exists());
    }
}
