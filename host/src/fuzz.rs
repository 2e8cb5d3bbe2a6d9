//! Fuzzer of parsers: it changes seeds at random and looks for a panic or a broken property.
//!
//! The inputs are the same in each run. `FUZZ_RUNS=1000000 cargo test --package workspaces-host --lib fuzzed` tries more of
//! them.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use fastrand::Rng;

/// Number of inputs for each parser where `FUZZ_RUNS` gives none.
const RUNS: usize = 10_000;

/// Pieces that parsers treat in a special way.
const PIECES: [&[u8]; 24] = [
    b"\0",
    b"\"",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"=",
    b"%",
    b"%zz",
    b"\r\n",
    b"\xff",
    b"\xc3\xa9",
    b"\xe2\x80\xae",
    b"-",
    b"..",
    b"1e999",
    b"null",
    b"18446744073709551616",
    b"@",
];

/// Calls `target` with the seeds, and with changed ones. Prints the input with which it panics.
pub(crate) fn fuzz(seeds: &[&[u8]], mut target: impl FnMut(&[u8])) {
    let runs = std::env::var("FUZZ_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(RUNS);
    let mut rng = Rng::with_seed(seeds.len() as u64);
    for run in 0..seeds.len() + runs {
        let input = match seeds.get(run) {
            Some(seed) => seed.to_vec(),
            None => changed(&mut rng, seeds),
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(&input))) {
            #[allow(clippy::print_stderr, reason = "a test that fails says with what")]
            {
                eprintln!("with the input \"{}\"", input.escape_ascii());
            }
            resume_unwind(panic);
        }
    }
}

/// Returns a seed with one to eight changes.
fn changed(rng: &mut Rng, seeds: &[&[u8]]) -> Vec<u8> {
    let seed = |rng: &mut Rng| seeds[rng.usize(..seeds.len())];
    let mut input = seed(rng).to_vec();
    for _ in 0..rng.usize(1..=8) {
        let at = rng.usize(..=input.len());
        let end = (at + rng.usize(..8)).min(input.len());
        match rng.u8(..7) {
            0 if at < input.len() => input[at] = rng.u8(..),
            1 if at < input.len() => input[at] ^= 1 << rng.u8(..8),
            2 => drop(input.drain(at..end)),
            3 => drop(input.splice(at..at, PIECES[rng.usize(..PIECES.len())].iter().copied())),
            4 => {
                let part = input[at..end].to_vec();
                let times = rng.usize(1..40);
                drop(input.splice(at..at, part.repeat(times)));
            }
            5 => input.truncate(at),
            _ => {
                let other = seed(rng);
                let from = rng.usize(..=other.len());
                drop(input.splice(at.., other[from..].iter().copied()));
            }
        }
    }
    input
}
