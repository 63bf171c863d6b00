//! The tests of this crate, in one program: it is linked once, and the compiler finds what nobody uses in `common`.

mod common;

mod damage;
mod destination;
mod own_blobs;
mod registry;
mod round_trip;
