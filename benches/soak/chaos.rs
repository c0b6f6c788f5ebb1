//! The chaos soak: `cargo bench --bench chaos -- --seed N --seconds 300`. Faults of every kind and orders to the gate, under a load of requests, prompts, streams, WebSockets and
//! uploads. It ends with 1 if a prompt ran twice, something is wrong or missing without an error, or a client's failure has no fault that explains it.

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    clippy::print_stdout
)] // a benchmark times itself

mod arguments;
#[path = "chaos/mod.rs"]
mod chaos;
#[path = "../launch/mod.rs"]
mod launch;
#[path = "../../tests/wire/message.rs"]
#[allow(dead_code)] // the table uses more of it
mod message;
#[path = "../../tests/wire/reader.rs"]
#[allow(dead_code)]
mod reader;

use std::process::ExitCode;
use std::time::Duration;

use arguments::given;

/// A client waits so long for the next byte.
pub(crate) fn patience() -> Duration {
    Duration::from_secs(45)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let first = given("--seed").unwrap_or_else(|| fastrand::u64(..1_000_000));
    let seconds = given("--seconds").unwrap_or(300);
    let mut right = true;
    for seed in first..first + given("--seeds").unwrap_or(1) {
        let soaked = chaos::soak(Duration::from_secs(seconds), seed).await;
        print!("{soaked}");
        right &= soaked.findings.are_right();
    }
    if right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
