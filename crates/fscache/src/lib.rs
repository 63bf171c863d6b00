//! A generic cache with the kernel's fscache model: volumes, cookies, hole decisions.

mod range;

pub use range::{BlockSize, ObjectRange};
