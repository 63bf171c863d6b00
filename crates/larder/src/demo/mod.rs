//! `larder demo`: the whole way on one machine, beside what a container engine does today.

mod figures;
mod size;
mod tree;

pub use figures::Figures;
pub use size::Size;
