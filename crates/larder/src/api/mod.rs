//! The control API: HTTP and JSON on a Unix socket, for the daemon's owner alone.

pub mod types;
