//! The tests of this crate, in one program: it is linked once, and the compiler finds what nobody uses in `support`.
//!
//! Tests that measure their process are programs of their own, beside this folder.

mod support;

mod check;
mod dictionary;
mod golden;
mod hostile;
mod images;
mod layouts;
mod matrix;
mod merge;
mod mkfs_images;
mod round_trip;
mod scan;
mod tar;
mod writer;
mod zmap;
mod zoo;
