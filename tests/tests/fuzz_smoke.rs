//! Every fuzz target for a moment; `tests/fuzz/main.rs` runs one for as long as wanted.

use proxsave_tests::{fuzz, mutate};
use std::time::Duration;

#[test]
fn parsers_survive_mutated_input() {
    let time = std::env::var("PROXSAVE_FUZZ_MS").ok().and_then(|text| text.parse().ok()).unwrap_or(1500);
    for target in fuzz::TARGETS {
        let count = mutate::run(42, &target.corpus(), Duration::from_millis(time), target.run);
        println!("{}: {count} inputs", target.name);
        assert!(count > 100, "{}: only {count} inputs in {time} ms", target.name);
    }
}

#[test]
#[should_panic(expected = "broke the target")]
fn a_panic_is_found() {
    let fragile = |input: &[u8]| assert!(input.len() < 3 || input[2] != b'!', "found");
    mutate::run(1, &[b"ab?def".to_vec()], Duration::from_secs(20), fragile);
}
