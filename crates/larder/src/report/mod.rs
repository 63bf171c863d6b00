//! The HTML report of `larder demo`.
