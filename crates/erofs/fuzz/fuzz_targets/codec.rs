//! Decodes any bytes with each codec: the first three say which one and how many bytes are wanted.
//!
//! Invariants: no panic, no loop, no memory by what the bytes say.

#![cfg_attr(fuzzing, no_main)]

use larder_erofs_fuzz::seeds;

larder_fuzz::fuzz_target!(seeds::streams, |bytes| larder_erofs::fuzzing::codec(bytes));
