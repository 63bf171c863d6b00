//! The tests of this crate, in one program: it is linked once, and the compiler finds what nobody uses in `common`.
//!
//! Tests with fault points, which are the whole process's, are a program of their own, beside this folder.

mod common;

mod faults;
mod manifests;
mod ranges;
mod redirects;
mod tokens;
mod trees;
