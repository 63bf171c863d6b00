//! Mounts container images at once and fetches what is read when it is read.
//!
//! The program: command line, tools of erofs-utils by their names (`multicall/`), daemon, control API. Everything it knows about images, caches and kernels lies in the
//! library crates; here they are put together. `daemon/` is the long-lived half, `commands/` the short-lived one,
//! `api/` what they say to each other.

mod api;
mod cache_options;
mod cli;
mod commands;
mod config;
mod daemon;
mod demo;
mod erofs;
mod errors;
mod inventory;
mod multicall;
mod output;
mod paths;
mod report;
mod runtime;
mod serve;
mod signals;
mod store;
mod sys;
mod trace;
mod tree;

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(Err(error)) = std::env::var_os(larder_faults::ENV).map(install_faults) {
        return errors::guard(std::panic::AssertUnwindSafe(|| Err(error.into())));
    }
    let mut args = std::env::args_os().skip(1);
    // The keeper must stay tiny: it is dispatched before the parser, the runtime and the log exist.
    if args.next().is_some_and(|first| first == "keeper") {
        larder_mount::keeper::main(args);
    }
    if let Some((tool, args)) = multicall::called(std::env::args_os()) {
        return errors::guard(std::panic::AssertUnwindSafe(|| multicall::run(tool, args)));
    }
    errors::guard(cli::main)
}

/// For tests: keeper and worker inherit the plan with the environment. A build without fault points refuses it.
fn install_faults(plan: std::ffi::OsString) -> Result<(), larder_faults::Error> {
    larder_faults::install_text(&plan.to_string_lossy())
}
