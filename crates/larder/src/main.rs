//! Mounts container images at once and fetches what is read when it is read.
//!
//! The program: command line, daemon, control API. Everything it knows about images, caches and kernels lies in the
//! library crates; here they are put together. `daemon/` is the long-lived half, `commands/` the short-lived one,
//! `api/` what they say to each other.

mod api;
mod cache_options;
mod cli;
mod commands;
mod config;
mod daemon;
mod demo;
mod errors;
mod inventory;
mod output;
mod paths;
mod report;
mod runtime;
mod serve;
mod store;
mod sys;
mod trace;
mod tree;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    // The keeper must stay tiny: it is dispatched before the parser, the runtime and the log exist.
    if args.next().is_some_and(|first| first == "keeper") {
        larder_mount::keeper::main(args);
    }
    errors::guard(cli::main)
}
