//! Runs every fuzz target for a few seconds; `cargo xtask fuzz` runs them longer.

#[test]
fn every_target_withstands_mutated_inputs_for_a_while() {
    larder_fuzz::run_every_target(env!("CARGO_MANIFEST_DIR"), env!("CARGO_BIN_EXE_cached_object"));
}
