//! The tests of this crate, in one program: it is linked once, and the compiler finds what nobody uses in `common`.
//!
//! The test of what is traced, which listens to the whole process, is a program of its own, beside this folder.

mod common;

mod blocking;
mod daemon_side;
mod errors_pass;
mod independence;
mod link_speed;
mod local;
mod one_fetch;
mod registry;
mod scheduling;
mod sources;
mod whole_blob;
mod withdrawal;
