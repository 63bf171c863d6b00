//! [`main`]: one process runs the inputs, another tells which of them ended it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::inputs::Inputs;
use crate::limits::{limit_memory, watch};
use crate::options::Options;

/// A fuzz target.
#[derive(Debug)]
pub struct Target {
    /// The name of its program.
    pub name: &'static str,
    /// Valid inputs.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// What is done to an input: must return, whatever it is.
    pub run: fn(&[u8]),
}

/// The program of a target: does what the command line says.
pub fn main(target: &Target) -> ExitCode {
    let options = match Options::parse(std::env::args_os().skip(1)) {
        Ok(options) => options,
        Err(reason) => {
            eprintln!("{}: {reason}", target.name);
            return ExitCode::from(2);
        }
    };
    let done = match (&options.save, &options.at_hand) {
        (Some(_), _) => save(target, &options).map(|()| true),
        (None, Some(_)) => work(target, &options).map(|()| true),
        (None, None) => supervise(target, &options),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{}: {error}", target.name);
            ExitCode::FAILURE
        }
    }
}

/// Writes input `--input` to a file, or all valid ones into a directory.
fn save(target: &Target, options: &Options) -> io::Result<()> {
    let Some(path) = &options.save else { return Ok(()) };
    let valid = (target.seeds)();
    if let Some(number) = options.input {
        return fs::write(path, Inputs::new(valid, options.seed).get(number));
    }
    fs::create_dir_all(path)?;
    valid.iter().enumerate().try_for_each(|(number, bytes)| fs::write(path.join(number.to_string()), bytes))
}

/// Runs the inputs: the valid ones at least, then until the time is up.
fn work(target: &Target, options: &Options) -> io::Result<()> {
    static AT_HAND: AtomicU64 = AtomicU64::new(u64::MAX);
    let note = options.at_hand.as_ref().map(|path| File::options().write(true).open(path)).transpose()?;
    let valid = (target.seeds)();
    let least = valid.len() as u64;
    let inputs = Inputs::new(valid, options.seed);
    limit_memory()?;
    watch(&AT_HAND);
    let numbers = options.input.map_or(0..u64::MAX, |number| number..number + 1);
    let began = Instant::now();
    for number in numbers {
        if options.input.is_none() && number >= least && began.elapsed() > options.time {
            println!("{}: {number} inputs of seed {}", target.name, options.seed);
            break;
        }
        AT_HAND.store(number, Ordering::Relaxed);
        if let Some(note) = &note {
            note.write_all_at(&number.to_le_bytes(), 0)?;
        }
        (target.run)(&inputs.get(number));
    }
    Ok(())
}

/// Lets a process run the inputs; `false`, and says so, when one of them ended it.
fn supervise(target: &Target, options: &Options) -> io::Result<bool> {
    let note = tempfile::NamedTempFile::new()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(std::env::args_os().skip(1)).arg("--at-hand").arg(note.path());
    let status = command.status()?;
    if status.success() {
        return Ok(true);
    }
    let mut number = [0; 8];
    note.as_file().read_exact_at(&mut number, 0)?;
    let (name, seed, number) = (target.name, options.seed, u64::from_le_bytes(number));
    eprintln!("{name}: input {number} of seed {seed} ended it with {status}; once more:");
    eprintln!("    cargo xtask fuzz {name} --seed {seed} --input {number}");
    Ok(false)
}
