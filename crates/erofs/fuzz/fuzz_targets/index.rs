//! Decodes any bytes as a map header and as entries of every form of compression index.
//!
//! Invariants: no panic, no loop, no memory by what the bytes say.

#![cfg_attr(fuzzing, no_main)]

use larder_erofs_fuzz::seeds;

larder_fuzz::fuzz_target!(seeds::indexes, |bytes| larder_erofs::fuzzing::index(bytes));
