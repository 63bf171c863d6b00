//! The tests of this crate, in one program: it is linked once, and the compiler finds what nobody uses in `support`.

mod support;

mod bad_input;
mod build_from_tar;
mod cache;
mod cli_help;
mod clock;
mod crash_loop;
mod daemon_replaced;
mod dead_parent;
mod demo;
mod erofs_extract;
mod erofs_merge;
mod erofs_names;
mod erofs_tools;
mod fault_points;
mod limits;
mod lying_registry;
mod not_resumed;
mod one_fetch;
mod own_blobs;
mod passthrough;
mod quota;
mod reading_without_mounting;
mod reproducible_build;
mod serve;
mod service_manager;
mod status_and_doctor;
mod stopping;
mod trace;
mod tree_round_trip;
mod trees;
mod worker_killed;
