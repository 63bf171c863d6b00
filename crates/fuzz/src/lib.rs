//! Fuzz targets that run with a stable compiler, in CI, for a bounded time.
//!
//! [`fuzz_target!`] makes a program of a function that takes any bytes. Under `cargo fuzz`, which needs a nightly
//! compiler, libFuzzer chooses the inputs. Otherwise they are what mutation makes of valid ones ([`inputs`]), in a
//! process of their own with bounded memory and time ([`limits`]). An input follows from target, seed and number
//! alone, so a finding is replayed by naming these:
//!
//! ```text
//! cargo xtask fuzz codec --seed 1 --input 4711
//! ```

mod damage;
mod inputs;
mod limits;
mod options;
mod supervise;
mod targets;

pub use damage::damage;
#[cfg(fuzzing)]
#[doc(hidden)]
pub use libfuzzer_sys;
pub use supervise::{Target, main};
pub use targets::run_every_target;

/// Makes the program of a fuzz target: valid inputs to begin with, and what is done to any bytes.
///
/// Its file begins with `#![cfg_attr(fuzzing, no_main)]`.
#[cfg(not(fuzzing))]
#[macro_export]
macro_rules! fuzz_target {
    ($seeds:expr, |$bytes:ident| $body:expr) => {
        fn main() -> std::process::ExitCode {
            fn run($bytes: &[u8]) {
                $body
            }
            let seeds: fn() -> Vec<Vec<u8>> = $seeds;
            $crate::main(&$crate::Target { name: env!("CARGO_BIN_NAME"), seeds, run })
        }
    };
}

/// Makes the program of a fuzz target, with libFuzzer.
#[cfg(fuzzing)]
#[macro_export]
macro_rules! fuzz_target {
    ($seeds:expr, |$bytes:ident| $body:expr) => {
        #[expect(dead_code, reason = "libFuzzer has a corpus in a directory")]
        const SEEDS: fn() -> Vec<Vec<u8>> = $seeds;
        $crate::libfuzzer_sys::fuzz_target!(|$bytes: &[u8]| $body);
    };
}
