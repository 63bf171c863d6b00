//! The fscache backend on a local directory: sparse backing files and presence maps.
