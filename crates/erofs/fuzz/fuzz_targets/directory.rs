//! Lists and searches any bytes as a directory block.
//!
//! Invariants: no panic, no loop, no memory by what the bytes say.

#![cfg_attr(fuzzing, no_main)]

use larder_erofs_fuzz::seeds;

larder_fuzz::fuzz_target!(seeds::directories, |bytes| larder_erofs::fuzzing::directory(bytes));
