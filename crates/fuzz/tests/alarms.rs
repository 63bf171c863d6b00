//! What a target must not do ends it, and the input that made it do so is named.

use std::path::PathBuf;
use std::process::{Command, Output};

/// Runs input number `input` of the example that misbehaves.
fn run(input: &str) -> Output {
    let tests = std::env::current_exe().expect("it has a path");
    let target: PathBuf = tests.ancestors().nth(2).expect("it lies in deps").join("examples/misbehaves");
    Command::new(target)
        .args(["--seed", "5", "--input", input])
        .output()
        .expect("examples are built with tests")
}

#[test]
fn an_input_that_behaves_is_no_finding() {
    assert!(run("0").status.success());
}

#[test]
fn panics_memory_and_endless_loops_end_with_how_to_replay_them() {
    for (input, why) in [("1", "as it was told"), ("2", "memory allocation"), ("3", "is not done after")] {
        let output = run(input);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(why), "{input}: {said}");
        let again = format!("cargo xtask fuzz misbehaves --seed 5 --input {input}");
        assert!(said.contains(&again), "{input}: {said}");
    }
}
