//! Mounts container images at once and fetches what is read when it is read.
fn main() {}
