//! A short run of every target: its seeds, and random mutations of them. `DIFYGATE_SEED` repeats a run, `DIFYGATE_FUZZ` sets how many mutations there are.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::{TARGETS, Target};

/// Mutations of each target in every run of the tests.
const MUTATIONS: u64 = 3_000;
/// An input is no longer than this.
const LONGEST: usize = 4_096;

/// Words that a target's grammar has and that chance alone would not write.
const WORDS: [&[u8]; 30] = [
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: ",
    b";a=\"b\"",
    b"%2f",
    b"%25",
    b"%2e%2e",
    b"/healthz",
    b"//",
    b"/../",
    b"http://h",
    b"X-Forwarded-For: ",
    b"Forwarded: for=",
    b"PROXY TCP4 ",
    b"\r\n\r\n\0\r\nQUIT\n",
    b"data: ",
    b"event: ",
    b"\"task_id\": \"",
    b"\x81\xfe",
    b"\x82\xff",
    b"${",
    b"&a ",
    b"*a",
    b"<<: ",
    b"\": {",
    b"null",
];

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// Changes an input in one place.
fn mutate(input: &mut Vec<u8>, seeds: &[Vec<u8>], rng: &mut fastrand::Rng) {
    let at = rng.usize(..=input.len());
    match rng.u8(..8) {
        0 if at < input.len() => input[at] ^= 1 << rng.u8(..8),
        0 | 1 => input.insert(at, rng.u8(..)),
        2 => drop(input.drain(at..(at + rng.usize(..9)).min(input.len()))),
        3 => {
            let part = input[at..(at + rng.usize(..40)).min(input.len())].to_vec();
            let to = rng.usize(..=input.len());
            drop(input.splice(to..to, part));
        }
        4 => input.truncate(at),
        5 => {
            let other = &seeds[rng.usize(..seeds.len())];
            let from = rng.usize(..=other.len());
            let part = other[from..(from + rng.usize(..80)).min(other.len())].to_vec();
            drop(input.splice(at..at, part));
        }
        _ => drop(input.splice(at..at, WORDS[rng.usize(..WORDS.len())].iter().copied())),
    }
    input.truncate(LONGEST);
}

fn run(&(name, target): &Target, seed: u64, mutations: u64) {
    let seeds = seeds(name);
    let mut rng = fastrand::Rng::with_seed(seed);
    let holds = |input: &[u8]| {
        let held = catch_unwind(AssertUnwindSafe(|| target(input))).is_ok();
        assert!(
            held,
            "{name} fails for b\"{}\"; DIFYGATE_SEED={seed}",
            input.escape_ascii()
        );
    };
    seeds.iter().for_each(|seed| holds(seed));
    for _ in 0..mutations {
        let mut input = seeds[rng.usize(..seeds.len())].clone();
        for _ in 0..rng.usize(1..12) {
            mutate(&mut input, &seeds, &mut rng);
        }
        holds(&input);
    }
}

#[test]
fn every_target_holds_for_its_seeds_and_for_mutations_of_them() {
    let number = |name: &str| std::env::var(name).ok().and_then(|given| given.parse().ok());
    let seed = number("DIFYGATE_SEED").unwrap_or_else(|| fastrand::u64(..));
    let mutations = number("DIFYGATE_FUZZ").unwrap_or(MUTATIONS);
    for target in &TARGETS {
        // A configuration is read in a millisecond, anything else in microseconds.
        let slow = target.0 == "config";
        run(target, seed, if slow { mutations / 10 } else { mutations });
    }
}

#[test]
fn every_target_stands_in_fuzz() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    for (name, _) in TARGETS {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        let text = std::fs::read_to_string(folder.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(text.contains(&format!("difygate::fuzzing::{name}(data)")), "{text}");
    }
}
