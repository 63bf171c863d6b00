//! Sound images, damage, and a reader of everything: what fuzz targets and tests share.
//!
//! Misuse panics, and so does whatever breaks an invariant: this crate is for tests only.

#![forbid(unsafe_code)]

pub mod archive;
pub mod corpus;
pub mod golden;
pub mod seeds;

pub mod damaged;
pub mod mutate;

pub mod exercise;
pub mod merge;
