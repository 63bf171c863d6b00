//! The log: standard error, silent but for warnings unless asked.

use std::io::{self, IsTerminal as _};
use std::sync::Arc;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::trace::{Hub, TraceLayer};

/// Starts the log, and what `larder trace` listens to; that costs nothing until somebody does. `LARDER_LOG` overrides `verbose`, in the syntax of `tracing_subscriber::EnvFilter`.
pub fn start(verbose: u8, worker: bool) -> Arc<Hub> {
    let default = match (verbose, worker) {
        (0, false) => "error",
        (0, true) | (1, false) => "info",
        (1, true) | (2, _) => "larder=debug,info",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("LARDER_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let colour =
        io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let hub = Arc::new(Hub::default());
    let log = tracing_subscriber::fmt::layer().with_ansi(colour).with_writer(io::stderr).with_filter(filter);
    // A second start (in tests) keeps the first.
    drop(tracing_subscriber::registry().with(log).with(TraceLayer::over(&hub)).try_init());
    hub
}
