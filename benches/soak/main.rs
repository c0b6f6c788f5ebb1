//! Every byte arrives: `cargo bench --bench integrity -- --seconds 300 --seed N`. Clients of every kind, endpoints in HTTP/1.1 and HTTP/2, bodies of up to 20 MB both
//! ways, slow and fast readers and writers, resets, half-closes and pipelining. It ends with 1 if a body differs, an answer is crossed, or an error has no cause.

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    clippy::print_stdout
)] // a benchmark times itself

mod arguments;
#[path = "../../tests/gate/authority.rs"]
#[allow(dead_code)] // tests use more of it
mod authority;
#[path = "../launch/mod.rs"]
mod launch;
#[path = "../../tests/wire/message.rs"]
#[allow(dead_code)] // the table uses more of it
mod message;
#[path = "../../tests/wire/reader.rs"]
#[allow(dead_code)]
mod reader;
mod soak;

use std::process::ExitCode;
use std::time::Duration;

use arguments::given;

/// Nothing takes longer than this unless it does not come at all.
pub(crate) fn patience() -> Duration {
    Duration::from_secs(20)
}

/// Whether a word stands on the command line.
fn says(word: &str) -> bool {
    std::env::args().any(|given| given == word)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let seed = given("--seed").unwrap_or_else(|| fastrand::u64(..1_000_000));
    let right = if says("stuck") {
        stuck(seed).await
    } else if says("uploads") {
        uploads(seed).await
    } else {
        mixed(seed).await
    };
    if right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn mixed(seed: u64) -> bool {
    let seconds = given("--seconds").unwrap_or(300);
    let soaked = soak::soak(Duration::from_secs(seconds), seed).await;
    let [before, most, after] = soaked.memory.map(|bytes| bytes >> 20);
    println!(
        "| integrity, seed {seed} | {:.0} s |\n|---|---|",
        soaked.took.as_secs_f64()
    );
    print!("{}", soaked.figures);
    println!("memory of the gate, MiB: {before} at its start, {most} at the most, {after} at the end");
    soaked.figures.are_right() && soaked.is_bounded()
}

/// Answers within TLS to clients that begin to read late or read slowly.
async fn stuck(seed: u64) -> bool {
    let count = given("--count").unwrap_or(2_000) as usize;
    let all = soak::stuck::stuck(count, seed).await;
    println!(
        "TLS answers stuck: {} of {}, seed {seed}, {:.0} s; bytes missing: {:?}; broken otherwise: {}",
        all.stuck,
        all.answers,
        all.took.as_secs_f64(),
        &all.missing[..all.missing.len().min(8)],
        all.broken
    );
    all.stuck == 0 && all.broken == 0
}

/// Uploads in chunks of every segmentation.
async fn uploads(seed: u64) -> bool {
    let count = given("--count").unwrap_or(5_000) as usize;
    let (figures, took) = soak::uploads::uploads(count, seed).await;
    println!(
        "chunked uploads cut: {} of {count}, seed {seed}, {:.0} s; refused or broken: {}",
        figures.differ.len(),
        took.as_secs_f64(),
        figures.unexplained.len()
    );
    for one in figures.differ.iter().chain(&figures.unexplained).take(5) {
        println!("{one}");
    }
    figures.are_right()
}
