//! Runs one parser on mutated inputs for longer than the smoke test does:
//!
//!     cargo run -p proxsave-tests --bin fuzz -- TARGET [SECONDS] [SEED]
//!
//! The same seed gives the same inputs. Findings are printed in hex; put them into `corpus/TARGET`.

use proxsave_tests::{fuzz, mutate};
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize, default: u64| args.get(index).and_then(|text| text.parse().ok()).unwrap_or(default);
    let names = || fuzz::TARGETS.iter().map(|target| target.name).collect::<Vec<_>>().join(", ");
    let Some(target) = fuzz::TARGETS.iter().find(|target| args.first().is_some_and(|name| name == target.name)) else {
        eprintln!("usage: fuzz TARGET [SECONDS] [SEED]\ntargets: {}", names());
        return ExitCode::from(2);
    };
    let count = mutate::run(number(2, 1), &target.corpus(), Duration::from_secs(number(1, 60)), target.run);
    println!("{}: {count} inputs, nothing found", target.name);
    ExitCode::SUCCESS
}
