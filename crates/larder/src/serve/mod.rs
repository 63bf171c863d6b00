//! The embedded registry of `larder serve` and `larder demo`.
