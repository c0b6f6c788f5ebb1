//! The wire, whole: one table of requests and answers, each sent on every way through the gate in segments cut at random, with a recording origin
//! behind it. `DIFYGATE_SEED` repeats a run; `DIFYGATE_WIRE` runs the rows whose names have it; with `DIFYGATE_WIRE_PEERS=1` the same table runs through nginx and HAProxy, where
//! `make peers` has installed them, and what they do otherwise is printed. A short soak follows; `cargo bench --bench integrity` is the long one.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, clippy::disallowed_methods)]

mod answers;
#[path = "../gate/authority.rs"]
#[allow(dead_code)] // other tests use more of it
mod authority;
mod client;
mod client_http2;
#[path = "../probe_guard/http2.rs"]
mod http2;
#[path = "../../benches/launch/mod.rs"]
mod launch;
mod ledger;
mod message;
mod origin;
mod origin_http2;
mod peers;
mod reader;
mod report;
mod requests;
mod rules;
mod run;
#[path = "../../benches/soak/soak/mod.rs"]
#[allow(dead_code)] // the benchmark tells more of it
mod soak;
mod split;
mod stage;
mod streams;
mod table;
mod ways;

use std::time::Duration;

use crate::run::through_the_gate;
use crate::table::Case;

/// Nothing takes longer than this unless it does not come at all.
pub(crate) fn patience() -> Duration {
    let given = std::env::var("DIFYGATE_WIRE_PATIENCE_MS").ok();
    Duration::from_millis(given.and_then(|given| given.parse().ok()).unwrap_or(20_000))
}

/// The seed of this run.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("DIFYGATE_SEED").ok();
    given
        .and_then(|given| given.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..))
}

fn are_many_and_distinct(cases: &[Case], least: usize) {
    let mut names: Vec<_> = cases.iter().map(|case| (case.group, case.name.as_str())).collect();
    assert!(names.len() >= least, "{} rows", names.len());
    names.sort_unstable();
    let doubled = names.windows(2).find(|pair| pair[0] == pair[1]);
    assert_eq!(doubled, None);
}

#[test]
fn the_tables_are_long_and_no_row_stands_in_them_twice() {
    are_many_and_distinct(&requests::all(), 200);
    are_many_and_distinct(&answers::all(), 120);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_arrive_as_they_were_sent_or_not_at_all() {
    through_the_gate("requests", requests::all()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_come_as_they_were_given_or_break_visibly() {
    through_the_gate("answers", answers::all()).await;
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::print_stdout)] // the figures are what it is for
async fn every_byte_arrives_for_ten_seconds_of_everything() {
    let seed = seed();
    let soaked = soak::soak(Duration::from_secs(10), seed).await;
    println!("seed {seed}\n{}", soaked.figures);
    assert!(
        soaked.figures.are_right() && soaked.is_bounded(),
        "DIFYGATE_SEED={seed}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_chunked_upload_is_cut_and_no_answer_within_tls_is_stuck() {
    let seed = seed();
    let (figures, _) = soak::uploads::uploads(200, seed).await;
    assert!(figures.are_right(), "DIFYGATE_SEED={seed}: {figures}");
    let stuck = soak::stuck::stuck(60, seed).await;
    assert_eq!((stuck.stuck, stuck.broken), (0, 0), "DIFYGATE_SEED={seed}: {stuck:?}");
}
