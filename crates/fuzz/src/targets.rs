//! [`run_every_target`]: what the test of a package of fuzz targets does.

use std::path::Path;
use std::process::Command;

/// How long a test runs each target.
const SECONDS: &str = "3";

/// Runs each target in `fuzz_targets` of the package at `package` for a few seconds, always with the same seed.
/// `program` is that of any of them: the others lie beside it.
///
/// # Panics
///
/// When a target does not withstand an input, or has no program.
pub fn run_every_target(package: &str, program: &str) {
    let sources =
        std::fs::read_dir(Path::new(package).join("fuzz_targets")).expect("a package of fuzz targets");
    let mut names: Vec<_> = sources.map(|source| source.expect("readable").path()).collect();
    names.sort();
    let failed = names.iter().filter_map(|source| {
        let program = Path::new(program).with_file_name(source.file_stem().expect("a source has a name"));
        let status = Command::new(&program).args(["--seconds", SECONDS]).status();
        let status = status.unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        (!status.success()).then_some(program)
    });
    let failed: Vec<_> = failed.collect();
    assert!(failed.is_empty(), "see above: {failed:?}");
}
