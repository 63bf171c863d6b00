//! The control socket: made once, kept by the keeper, so that callers queue while a worker is started again.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use anyhow::Context as _;
use larder_mount::keeper::Holder;

use crate::errors::{Kind, told};

/// What the keeper calls it.
pub const NAME: &str = "listener";

/// Takes the listener that an earlier worker left with `keeper`, or makes one.
///
/// # Errors
///
/// When another daemon answers on the path, or the socket cannot be made.
pub fn take_or_bind(path: &Path, keeper: &dyn Holder) -> anyhow::Result<UnixListener> {
    let listener = match keeper.take(NAME) {
        Some(kept) => UnixListener::from(kept),
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
    use larder_mount::keeper::NoKeeper;

    use super::*;

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
