//! Which tree the demo's image is made of, and which program runs out of it.
//!
//! [`Source`] says where the files lie and what makes them a root, [`Program`] what runs and what it cannot do
//! without, [`Cut`] what stays out when the tree is larger than it may be. All three are deterministic.

mod closure;
mod cut;
mod program;
mod source;
mod workload;

pub use cut::{Amount, Cut, LeftOut};
pub use program::Program;
pub use source::Source;
