//! Faults before the gate and before its peers: the same three simulated Dify instances, the same 200 requests a second, the same faults at a
//! random phase: `cargo bench --bench peers`. Words after `--` choose rows and columns by a part of their names; `PEERS_RUNS` sets the runs a
//! cell (5). A peer that is not installed is said to be absent; `make peers` installs them.

#![allow(missing_docs, clippy::disallowed_methods, clippy::unwrap_used)] // a benchmark times itself

#[path = "../launch/mod.rs"]
mod launch;
mod proxies;

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use difygate::demo::fault::Fault;
use difygate::demo::load::{Load, Outcome, exchange};
use difygate::simulated_dify::{Cluster, SimulatedDify};
use launch::{Process, free_port};
use proxies::{CADDY, ENVOY, GATE, HAPROXY, NGINX, Proxy, Site};
use tokio::time::{Instant, sleep};

const PROXIES: [Proxy; 6] = [
    GATE,
    ("HAProxy, defaults", proxies::haproxy),
    HAPROXY,
    ENVOY,
    NGINX,
    CADDY,
];
const FAULTS: [(Fault, &str); 5] = [
    (Fault::DatabaseFails, "503 on /healthz and in traffic"),
    (Fault::TrafficFails, "503 in traffic, /healthz well"),
    (Fault::TrafficBreaks, "traffic cut before an answer, /healthz well"),
    (Fault::Freezes, "frozen, keeps accepting"),
    (Fault::Dies, "port closed"),
];
/// A fault lasts so long, which is less than any proxy here keeps away what failed.
const LASTS: Duration = Duration::from_secs(7);
/// A question that takes longer than this has failed, for nobody waits longer.
const PATIENCE: Duration = Duration::from_secs(2);
/// A request that takes longer than this was held up by the frozen instance.
const HELD_UP: Duration = Duration::from_millis(500);

/// What one run shows: failed requests, and attempts or requests wasted on the faulty instance where that can be counted.
struct Shown {
    failed: usize,
    wasted: Option<u64>,
}

async fn serves(address: SocketAddr) -> bool {
    let deadline = Instant::now() + Duration::from_secs(20);
    let request = "GET /v1/parameters HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n";
    while Instant::now() < deadline {
        let answer = tokio::time::timeout(PATIENCE, exchange(address, request)).await;
        if answer.is_ok_and(|answer| answer.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))) {
            return true;
        }
        sleep(Duration::from_millis(20)).await;
    }
    false
}

async fn run((_, launch): Proxy, fault: Fault) -> Option<Shown> {
    let cluster = Cluster::new();
    let mut instances = Vec::new();
    for name in ["dify-1", "dify-2", "dify-3"] {
        instances.push(SimulatedDify::start(&cluster, name).await.expect("an instance"));
    }
    let origins: Vec<SocketAddr> = instances.iter().map(SimulatedDify::address).collect();
    let folder = tempfile::tempdir().expect("a folder");
    let listener = free_port();
    let _process = Process(launch(&Site {
        folder: folder.path(),
        listener,
        admin: free_port(),
        origins: &origins,
        weights: &[],
        beside: None,
    })?);
    if !serves(listener).await {
        return None;
    }
    let dify = &instances[fastrand::usize(..instances.len())];
    let load = Load::start(listener);
    // The gate has seen everyone pass by then, and so has every peer.
    sleep(Duration::from_millis(fastrand::u64(3_000..5_000))).await;
    let before = dify.tally().traffic();
    let broke = Instant::now().into_std();
    fault.strike(dify).await;
    sleep(LASTS).await;
    let arrived = dify.tally().traffic() - before;
    fault.mend(dify).await.expect("a mended instance");
    let mended = Instant::now().into_std();
    sleep(Duration::from_millis(500)).await;
    load.settled(mended).await;
    let outcomes: Vec<Outcome> = load
        .since(broke)
        .into_iter()
        .filter(|outcome| outcome.sent < mended)
        .collect();
    let failed = |outcome: &&Outcome| !outcome.is_served() || (!outcome.prompt && outcome.took > PATIENCE);
    let held_up = outcomes.iter().filter(|outcome| outcome.took > HELD_UP).count();
    Some(Shown {
        failed: outcomes.iter().filter(failed).count(),
        wasted: match fault {
            Fault::Dies => None,
            Fault::Freezes => Some(held_up as u64),
            Fault::DatabaseFails | Fault::HealthFails | Fault::TrafficFails | Fault::TrafficBreaks => Some(arrived),
        },
    })
}

fn spread(mut values: Vec<u64>) -> String {
    values.sort_unstable();
    match (values.first(), values.get(values.len() / 2), values.last()) {
        (Some(least), Some(middle), Some(most)) => format!("{middle} ({least}–{most})"),
        _ => "–".to_owned(),
    }
}

async fn cell(proxy: Proxy, fault: Fault, runs: usize) -> Option<String> {
    let (mut failed, mut wasted) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let shown = run(proxy, fault).await?;
        failed.push(shown.failed as u64);
        wasted.extend(shown.wasted);
    }
    Some(format!("{} / {}", spread(failed), spread(wasted)))
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let runs = std::env::var("PEERS_RUNS")
        .ok()
        .and_then(|runs| runs.parse().ok())
        .unwrap_or(5);
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect();
    let is_chosen = |name: &str, among: &[&str]| {
        let relevant: Vec<&String> = words
            .iter()
            .filter(|word| among.iter().any(|name| name.contains(*word)))
            .collect();
        relevant.is_empty() || relevant.iter().any(|word| name.contains(*word))
    };
    let names: Vec<&str> = PROXIES.iter().map(|(name, _)| *name).collect();
    let rows: Vec<&str> = FAULTS.iter().map(|(_, name)| *name).collect();
    let proxies: Vec<Proxy> = PROXIES
        .into_iter()
        .filter(|(name, _)| is_chosen(name, &names))
        .collect();
    let mut lines = vec![
        format!(
            "| failed / wasted | {} |",
            proxies.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" | ")
        ),
        format!("|---|{}", "---|".repeat(proxies.len())),
    ];
    for (fault, name) in FAULTS.into_iter().filter(|(_, name)| is_chosen(name, &rows)) {
        let mut cells = Vec::new();
        for proxy in &proxies {
            let shown = cell(*proxy, fault, runs).await.unwrap_or_else(|| "absent".to_owned());
            writeln!(std::io::stderr(), "{name}: {}: {shown}", proxy.0).expect("a reader");
            cells.push(shown);
        }
        lines.push(format!("| {name} | {} |", cells.join(" | ")));
    }
    writeln!(
        std::io::stdout(),
        "{runs} runs a cell, median (least–most); 3 instances, 200 requests a second for {LASTS:?} of the fault\n{}",
        lines.join("\n")
    )
    .expect("a reader");
}
