//! EROFS images, and archives to make them of, as files of this machine: opening, listing, comparing, extracting, merging, serving.
//!
//! What `larder erofs …` and the tools that answer to the names of erofs-utils share. The format itself is
//! `larder_erofs`.

pub mod archive;
pub mod compare;
pub mod describe;
pub mod extract;
pub mod merge;
pub mod open;
pub mod read_cache;
mod serve;
pub mod statistics;
