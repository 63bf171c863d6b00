//! Reads a superblock with its codec configurations from any bytes.
//!
//! Invariants: no panic, no loop, no memory by what the bytes say.

#![cfg_attr(fuzzing, no_main)]

use larder_erofs_fuzz::seeds;

larder_fuzz::fuzz_target!(seeds::superblocks, |bytes| larder_erofs::fuzzing::superblock(bytes));
