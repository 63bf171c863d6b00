//! The log: standard error, silent but for warnings unless asked.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::sync::Arc;

use anyhow::Context as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::errors::{Kind, tell};
use crate::trace::{Hub, TraceLayer};

/// What the log says instead of what `-v` asks for.
const ENV: &str = "LARDER_LOG";

/// Whose log it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LogOf {
    /// Somebody waits for its end.
    Command,
    /// A daemon that takes the place of one that died: readers wait for it.
    Successor,
    /// The same, and it says more.
    Worker,
}

/// Starts the log, and what `larder trace` listens to; that costs nothing until somebody does. `LARDER_LOG` overrides
/// `verbose`, in the syntax of `tracing_subscriber::EnvFilter`.
///
/// # Errors
///
/// When `LARDER_LOG` cannot be understood. Nobody for whom readers wait fails for that.
pub fn start(verbose: u8, whose: LogOf) -> anyhow::Result<Arc<Hub>> {
    let default = match (verbose, whose == LogOf::Worker) {
        (0, false) => "warn",
        (0, true) | (1, false) => "info",
        (1, true) | (2, _) => "larder=debug,info",
        _ => "trace",
    };
    let (asked, error) = match asked(std::env::var_os(ENV)) {
        Ok(asked) => (asked, None),
        Err(error) if whose == LogOf::Command => return Err(error),
        Err(error) => (None, Some(error)),
    };
    let filter = asked.unwrap_or_else(|| EnvFilter::new(default));
    let colour =
        io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let hub = Arc::new(Hub::default());
    let log = tracing_subscriber::fmt::layer().with_ansi(colour).with_writer(io::stderr).with_filter(filter);
    // A second start (in tests) keeps the first.
    drop(tracing_subscriber::registry().with(log).with(TraceLayer::over(&hub)).try_init());
    if let Some(error) = error {
        tracing::error!("{error:#}: the default applies");
    }
    Ok(hub)
}

/// What `LARDER_LOG` asks for; empty it asks for nothing.
fn asked(text: Option<OsString>) -> anyhow::Result<Option<EnvFilter>> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let filter = EnvFilter::try_new(text.to_string_lossy()).with_context(|| {
        tell(
            Kind::BadRequest,
            format!("{ENV}={}: cannot be understood", text.display()),
            "write a level or TARGET=LEVEL, several behind commas: `debug`, `larder_remote=debug,info`",
        )
    })?;
    Ok(Some(filter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p7_a_log_that_cannot_be_understood_is_refused_by_name() {
        for good in ["debug", "larder_remote=debug,info", "off"] {
            asked(Some(good.into())).expect(good).expect("a filter");
        }
        assert!(asked(Some("".into())).expect("nothing is asked for").is_none());
        for bad in ["larder=loud", "larder=debug=info", "info,larder=1x"] {
            let error = asked(Some(bad.into())).expect_err(bad);
            assert!(error.to_string().contains(&format!("LARDER_LOG={bad}")), "{error}");
        }
    }
}
