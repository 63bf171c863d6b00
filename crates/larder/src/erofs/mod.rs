//! EROFS images as files of this machine: opening, listing, comparing, extracting, serving.
//!
//! What `larder erofs …` and the tools that answer to the names of erofs-utils share. The format itself is
//! `larder_erofs`.

pub mod compare;
pub mod describe;
pub mod extract;
pub mod open;
pub mod read_cache;
pub mod serve;
pub mod statistics;
