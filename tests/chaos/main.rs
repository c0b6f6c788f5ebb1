//! The chaos soak, short: faults and orders under load, with books at both ends (`cargo bench --bench chaos` is the long one). `DIFYGATE_SEED` repeats a run.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, clippy::disallowed_methods)]

mod books;
#[path = "../../benches/soak/chaos/mod.rs"]
mod chaos;
#[path = "../../benches/launch/mod.rs"]
mod launch;
#[path = "../wire/message.rs"]
#[allow(dead_code)] // the table of cases uses more of it
mod message;
#[path = "../wire/reader.rs"]
#[allow(dead_code)]
mod reader;

use std::time::Duration;

/// A client waits so long for the next byte.
pub(crate) fn patience() -> Duration {
    Duration::from_secs(45)
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::print_stdout)] // the figures are what it is for
async fn every_failure_has_a_fault_that_explains_it() {
    let given = std::env::var("DIFYGATE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let soaked = chaos::soak(Duration::from_secs(15), seed).await;
    println!("{soaked}");
    assert!(soaked.findings.are_right(), "DIFYGATE_SEED={seed}");
}
