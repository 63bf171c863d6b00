//! The log: standard error, silent but for warnings unless asked.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;

/// Starts the log. `LARDER_LOG` overrides `verbose`, in the syntax of `tracing_subscriber::EnvFilter`.
pub fn start(verbose: u8, worker: bool) {
    let default = match (verbose, worker) {
        (0, false) => "error",
        (0, true) | (1, false) => "info",
        (1, true) | (2, _) => "larder=debug,info",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("LARDER_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let colour =
        io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    // A second start (in tests) keeps the first.
    drop(
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(colour)
            .with_writer(io::stderr)
            .try_init(),
    );
}
