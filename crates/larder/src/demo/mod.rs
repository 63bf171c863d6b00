//! `larder demo`: the whole way on one machine, beside what a container engine does today.
//!
//! [`run`] tells the story: choose a tree and a program, build the image, serve it over a link, run the program out of
//! it on demand, then run it again after everything was fetched and unpacked. Both ways end in the same place, measured
//! the same way. Whatever happens, [`Scratch`](scratch::Scratch) leaves nothing behind.

mod tree;

mod place;
mod scratch;

mod image;
mod lazy;
mod program;

mod full;

mod check;
mod figures;
mod story;

pub use figures::Figures;
pub use story::{Options, run};
